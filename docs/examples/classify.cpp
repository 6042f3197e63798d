// Prints the best label of each image and its score, with the model of an OpenVINO bundle:
//     classify BUNDLE IMAGE.ppm ...
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <openvino/openvino.hpp>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    int width = 0, height = 0;
    std::vector<uint8_t> rgb;  // red, green and blue of each pixel, row by row
};

// The bytes of a file.
std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("can't open " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// A binary PPM of 8 bits. An app has its own decoder, or a camera.
Image read_ppm(const std::string& path) {
    std::string bytes = contents(path);
    std::smatch head;
    const std::regex form(R"(P6\s+(\d+)\s+(\d+)\s+255\s)");
    if (!std::regex_search(bytes, head, form, std::regex_constants::match_continuous))
        throw std::runtime_error(path + " is not a PPM of type P6 with 8 bits");
    Image image{std::stoi(head[1]), std::stoi(head[2]), {head[0].second, bytes.cend()}};
    if (image.rgb.size() != size_t(image.width) * image.height * 3) throw std::runtime_error(path + " is truncated");
    return image;
}

// The value of the first such key in the manifest, as it is written. An app that has a JSON library uses that.
std::string value(const std::string& manifest, const std::string& key) {
    std::smatch found;
    if (!std::regex_search(manifest, found, std::regex("\"" + key + "\":\\s*(\\[[^\\]]*\\]|\"[^\"]*\"|[^,}\\s]+)")))
        throw std::runtime_error("the manifest has no key " + key);
    return found[1];
}

std::vector<float> numbers(const std::string& manifest, const std::string& key) {
    const std::string list = value(manifest, key);
    const std::regex number("[-+.eE0-9]+");
    std::vector<float> parsed;
    for (std::sregex_iterator at(list.begin(), list.end(), number), end; at != end; ++at)
        parsed.push_back(std::stof(at->str()));
    return parsed;
}

// Pillow's filters: the weight of a pixel at distance x.
double weight(double x, bool bicubic) {
    x = std::abs(x);
    if (!bicubic) return std::max(0.0, 1 - x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

// The mean of each factor x factor pixels, rounded as Pillow does.
Image reduced(const Image& image, int factor) {
    if (factor == 1) return image;
    Image result{(image.width + factor - 1) / factor, (image.height + factor - 1) / factor, {}};
    for (int row = 0; row < result.height; ++row)
        for (int column = 0; column < result.width; ++column) {
            const int bottom = std::min((row + 1) * factor, image.height), top = row * factor;
            const int right = std::min((column + 1) * factor, image.width), left = column * factor;
            const uint32_t count = (bottom - top) * (right - left), share = (1u << 24) / count;
            for (int channel = 0; channel < 3; ++channel) {
                uint32_t sum = count / 2;
                for (int y = top; y < bottom; ++y)
                    for (int x = left; x < right; ++x) sum += image.rgb[(size_t(y) * image.width + x) * 3 + channel];
                result.rgb.push_back((sum * share) >> 24);
            }
        }
    return result;
}

// `size` pixels from `start` on of an image that is resized to `whole` along one axis, bit for bit as Pillow does it: the
// filter covers all pixels that shrink into one, in fixed point, and the region's place in the image is a float. The
// image has the length `side` there, which may end in the middle of a pixel.
Image resized(const Image& image, double side, int whole, int start, int size, bool horizontal, bool bicubic) {
    const int from = horizontal ? image.width : image.height;
    if (from == whole && start == 0 && size == whole) return image;
    Image result{horizontal ? size : image.width, horizontal ? image.height : size, {}};
    result.rgb.resize(size_t(result.width) * result.height * 3);
    const float low = float(start * (side / whole)), high = float((start + size) * (side / whole));
    const double scale = double(high - low) / size, wide = std::max(scale, 1.0), support = (bicubic ? 2 : 1) * wide;
    for (int to = 0; to < size; ++to) {
        const double center = low + (to + 0.5) * scale;
        const int first = std::max(0, int(center - support + 0.5)), last = std::min(from, int(center + support + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int at = first; at < last; ++at) sum += weights.emplace_back(weight((at - center + 0.5) / wide, bicubic));
        std::vector<int> fixed;
        for (double each : weights) fixed.push_back(int(std::round(each / sum * (1 << 22))));
        for (int line = 0; line < (horizontal ? image.height : image.width); ++line)
            for (int channel = 0; channel < 3; ++channel) {
                int total = 1 << 21;
                for (int at = first; at < last; ++at) {
                    const int row = horizontal ? line : at, column = horizontal ? at : line;
                    total += image.rgb[(size_t(row) * image.width + column) * 3 + channel] * fixed[at - first];
                }
                const int row = horizontal ? line : to, column = horizontal ? to : line;
                result.rgb[(size_t(row) * result.width + column) * 3 + channel] = std::clamp(total >> 22, 0, 255);
            }
    }
    return result;
}

// Resizes and crops an image into the input tensor and, unless the model takes pixels, normalizes it.
void preprocess(const Image& image, const std::string& manifest, ov::Tensor tensor) {
    const int height = std::stoi(value(manifest, "height")), width = std::stoi(value(manifest, "width"));
    const double crop = std::stod(value(manifest, "crop_pct"));
    const std::string mode = value(manifest, "crop_mode"), filter = value(manifest, "interpolation");
    const std::vector<float> mean = numbers(manifest, "mean"), std = numbers(manifest, "std");
    if (mean.size() != 3 || mode == "\"border\"" || (filter != "\"bilinear\"" && filter != "\"bicubic\""))
        throw std::runtime_error("this example has no grey images, and neither crop mode " + mode + " nor " + filter);
    int tall = int(height / crop), broad = int(width / crop);
    if (mode == "\"center\"") {  // the shorter side gets the length, rounded as torchvision does
        const double ratio = std::min(double(image.height) / tall, double(image.width) / broad);
        const bool square = tall == broad;
        const int side = tall, longer = int(double(side) * std::max(image.width, image.height) /
                                            std::min(image.width, image.height));
        tall = square ? (image.width <= image.height ? longer : side) : int(std::nearbyint(image.height / ratio));
        broad = square ? (image.width <= image.height ? side : longer) : int(std::nearbyint(image.width / ratio));
    }
    const bool bicubic = filter == "\"bicubic\"";
    const int top = int(std::nearbyint((tall - height) / 2.0)), left = int(std::nearbyint((broad - width) / 2.0));
    const bool part = mode == "\"center\"";  // of which edgekit asks Pillow alone
    int factor = 1;
    if (manifest.find("\"margin\"") != std::string::npos) {  // the fast form
        const double margin = std::stod(value(manifest, "margin"));
        for (int each : {2, 4, 8})
            if (image.height >= each * margin * tall && image.width >= each * margin * broad) factor = each;
    }
    const double high = double(image.height) / factor, wide = double(image.width) / factor;
    const Image smaller = reduced(image, factor);
    const Image rows = resized(smaller, wide, broad, part ? left : 0, part ? width : broad, true, bicubic);
    const Image result = resized(rows, high, tall, part ? top : 0, part ? height : tall, false, bicubic);
    const int above = part ? 0 : top, before = part ? 0 : left;
    const bool takes_pixels = value(manifest, "dtype") == "\"uint8\"";
    for (int row = 0; row < height; ++row)
        for (int column = 0; column < width; ++column)
            for (int channel = 0; channel < 3; ++channel) {
                const uint8_t byte = result.rgb[(size_t(row + above) * result.width + column + before) * 3 + channel];
                const size_t pixel = size_t(row) * width + column;
                if (takes_pixels)
                    tensor.data<uint8_t>()[pixel * 3 + channel] = byte;
                else
                    tensor.data<float>()[size_t(channel) * height * width + pixel] = (byte / 255.0f - mean[channel]) / std[channel];
            }
}

int main(int count, char** arguments) try {
    if (count < 3) throw std::runtime_error("usage: classify BUNDLE IMAGE.ppm ...");
    const std::string bundle = arguments[1], manifest = contents(bundle + "/manifest.json");
    if (manifest.find("\"activation\"") != std::string::npos)
        throw std::runtime_error("this example has only the softmax of bundles with one class per image");
    std::vector<std::string> labels;
    std::ifstream lines(bundle + "/labels.txt");
    for (std::string line; std::getline(lines, line);) labels.push_back(line);
    ov::Core core;
    const std::string file = value(manifest, "model_file");
    ov::CompiledModel model = core.compile_model(bundle + "/" + file.substr(1, file.size() - 2), "CPU",
                                                 ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                                 ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = model.create_infer_request();
    for (int index = 2; index < count; ++index) {
        preprocess(read_ppm(arguments[index]), manifest, request.get_input_tensor());
        request.infer();
        const ov::Tensor logits = request.get_output_tensor();
        const float *first = logits.data<const float>(), *last = first + logits.get_size();
        const float* best = std::max_element(first, last);
        double sum = 0;  // of the softmax, in which the best logit has 1
        for (const float* logit = first; logit != last; ++logit) sum += std::exp(*logit - *best);
        std::cout << labels.at(best - first) << " " << 1 / sum << "\n";
    }
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
}
