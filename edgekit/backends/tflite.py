"""LiteRT (TensorFlow Lite): the graph as one flatbuffer."""

from pathlib import Path

import flatbuffers
import litert_torch
from ai_edge_litert import schema_py_generated as schema
from litert_torch.quantize import pt2e_quantizer, quant_config
from torch.fx import GraphModule

from edgekit.backends.base import Artifact
from edgekit.graph import example_input


class Backend:
    """Compiles for LiteRT; the file also loads in tflite-runtime 2.14."""

    def compile(self, graph: GraphModule, folder: Path, metadata: str) -> Artifact:
        options = {}
        if any("quantize" in str(node.target) for node in graph.graph.nodes):
            # Without a quantization config the converter keeps every Q/DQ as it is and folds nothing, silently.
            config = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True)
            quantizer = pt2e_quantizer.PT2EQuantizer().set_global(config)
            options["quant_config"] = quant_config.QuantConfig(pt2e_quantizer=quantizer)
        graph.training = False
        model = litert_torch.convert(graph, (example_input(graph),), **options)
        model.export(str(folder / "model.tflite"))
        names = embed(folder / "model.tflite", metadata)
        return Artifact("model.tflite", ("model.tflite",), *names, "ai-edge-litert", "1.0.0")


def embed(path: Path, metadata: str) -> tuple[str, str]:
    """Put `metadata` into the flatbuffer under the name "edgekit"; the names of its input and output tensor."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    buffer = schema.BufferT()
    buffer.data = list(metadata.encode())
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "edgekit", len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(path.stat().st_size + len(metadata) + 1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    graph = model.subgraphs[0]
    return tuple(graph.tensors[ends[0]].name.decode() for ends in (graph.inputs, graph.outputs))
