"""The folder of a fourth runtime, as a contributor would add it at edgekit/runtime/fake."""
