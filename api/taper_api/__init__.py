"""The resources of Taper: their fields, defaults and rules. Neither torch nor a Kubernetes client."""

from taper_api.base.job_error import JobError, Problem
from taper_api.job_file import check_files, load_job, parse_job
from taper_api.rlhfjob import RLHFJob
from taper_api.rlhfjob_resource import job_of_resource

__all__ = ["JobError", "Problem", "RLHFJob", "check_files", "job_of_resource", "load_job", "parse_job"]
