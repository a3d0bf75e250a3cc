"""Which rows are alike: the nearest of one, near duplicates and their groups, diverse subsets. On features alone."""
