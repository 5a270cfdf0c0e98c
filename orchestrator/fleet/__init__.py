"""Several tasks tuned together: one base, one set of packs, a sweep and a registered model each."""
