//! Views of results: tables, plots, grids, and the comparison with a baseline.
