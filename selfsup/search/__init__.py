"""Which rows are alike: search for the nearest, near duplicates and their groups, diverse subsets. On features alone."""
