{{/* Name of the namespaced objects and of the Lease, short enough for suffixes. */}}
{{- define "taper.name" -}}
{{- if contains "taper" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-taper" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of cluster-scoped objects: distinct for two releases of the same name. */}}
{{- define "taper.clusterName" -}}
{{- printf "%s-%s" (include "taper.name" .) .Release.Namespace -}}
{{- end -}}

{{- define "taper.selector" -}}
app.kubernetes.io/name: taper-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "taper.labels" -}}
{{ include "taper.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: taper
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "taper.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "taper.name" .) -}}
{{- end -}}

{{/* The served namespaces, separated by commas; * for all. */}}
{{- define "taper.namespaces" -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | join "," -}}
{{- end -}}

{{/* The host at which jobs reach the operator, and the Secret with its certificate. */}}
{{- define "taper.reportHost" -}}
{{- printf "%s-reports.%s.svc" (include "taper.name" .) .Release.Namespace -}}
{{- end -}}

{{- define "taper.reportSecret" -}}
{{- .Values.reports.secretName | default (printf "%s-reports" (include "taper.name" .)) -}}
{{- end -}}

{{- define "taper.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Whether to create an object of an optional API: "yes", or nothing. Takes a list of `create`, the API and the root. */}}
{{- define "taper.isMade" -}}
{{- $create := index . 0 -}}
{{- if or (eq $create "always") (and (eq $create "auto") ((index . 2).Capabilities.APIVersions.Has (index . 1))) -}}
yes
{{- end -}}
{{- end -}}
