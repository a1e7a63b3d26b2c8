{{/* Checks that a schema cannot express. Each message names the value, the problem, and the remedy. */}}
{{- define "taper.checks" -}}
{{- if and (has "*" .Values.watchNamespaces) (gt (len .Values.watchNamespaces) 1) -}}
{{- fail "watchNamespaces: \"*\" means all namespaces and stands alone: remove it, or the others" -}}
{{- end -}}
{{- if and (has "*" .Values.jobs.allowedSecrets) (gt (len .Values.jobs.allowedSecrets) 1) -}}
{{- fail "jobs.allowedSecrets: \"*\" means all secrets and stands alone: remove it, or the others" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.name: is missing, and serviceAccount.create is false: name an account that exists, or have one made" -}}
{{- end -}}
{{- $times := splitList "/" .Values.leaseSeconds -}}
{{- if not (and (gt (float64 (index $times 0)) (float64 (index $times 1))) (gt (float64 (index $times 1)) (float64 (index $times 2)))) -}}
{{- fail (printf "leaseSeconds: %s must be lease duration / renew deadline / retry period, each shorter than the one before: write it like 10/7/2" .Values.leaseSeconds) -}}
{{- end -}}
{{- end -}}
