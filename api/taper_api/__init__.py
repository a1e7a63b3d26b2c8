"""The resources of Taper: their fields, defaults and rules. Neither torch nor a Kubernetes client."""

from taper_api.job_error import JobError, Problem
from taper_api.job_file import check_files, load_job, parse_job
from taper_api.resource import job_of_resource
from taper_api.rlhfjob import RLHFJob

__all__ = ["JobError", "Problem", "RLHFJob", "check_files", "job_of_resource", "load_job", "parse_job"]
