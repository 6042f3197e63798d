"""The folder of a fourth runtime, as anyone would add it at edgekit/runtime/fake."""
