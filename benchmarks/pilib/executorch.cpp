// Runs ExecuTorch's .pte files for Python's ctypes. ExecuTorch's own Python module needs torch.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

using executorch::extension::Module;

extern "C" Module* open_program(const char* path) {
    auto* program = new Module(path);
    return program->load_forward() == executorch::runtime::Error::Ok ? program : nullptr;
}

// Computes the logits of an image [1,3,H,W]. Returns ExecuTorch's error code, which is 0 on success.
// The logits are valid until the next call.
extern "C" int infer(Module* program, float* image, int height, int width, const float** logits, int* classes) {
    const auto outputs = program->forward(executorch::extension::from_blob(image, {1, 3, height, width}));
    if (!outputs.ok()) return static_cast<int>(outputs.error());
    const auto& tensor = outputs->at(0).toTensor();
    *logits = tensor.const_data_ptr<float>();
    *classes = static_cast<int>(tensor.numel());
    return 0;
}
