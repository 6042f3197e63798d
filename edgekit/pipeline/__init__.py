"""The whole job: options, bundles, measurements and the report."""
