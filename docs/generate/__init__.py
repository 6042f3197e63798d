"""Writes what the documentation shows of the code and of the benchmarks: the reference's pages, tables of figures."""
