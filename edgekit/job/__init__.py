"""The job as one value: each field is declared once, and every way to state a job derives from that."""

from edgekit.job.job import DEMO, Job
from edgekit.job.saved import job_of

__all__ = ["DEMO", "Job", "job_of"]
