"""The whole job: from options to bundles, measurements and the report."""
