// Runs a bundle's engine with ONNX Runtime's C API, without Python.
//
//   g++ -std=c++17 -O2 infer.cpp -o infer -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime
//
//   infer BUNDLE < input.raw > output.raw
//
// input.raw: the values of the engine's one input, in its type and order (float32, batch first: "input" in
// manifest.json), as preprocessing leaves them. output.raw: float32 values of all outputs, one after the other; their
// names and shapes are told on stderr. Exit status 1: something is wrong, and said on stderr.
//
// Check the bundle before (run.py verify on a machine with Python, or the sha256 of every file in manifest.json): this
// program opens what it is given.

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnxruntime_c_api.h"

namespace {

const OrtApi* api = nullptr;

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

struct Port {
  std::string name;
  std::vector<int64_t> shape;
  size_t elements = 0;
};

std::vector<int64_t> shape_of(const OrtTensorTypeAndShapeInfo* info) {
  size_t dimensions = 0;
  check(api->GetDimensionsCount(info, &dimensions));
  std::vector<int64_t> shape(dimensions);
  check(api->GetDimensions(info, shape.data(), dimensions));
  return shape;
}

void must_be_float(const OrtTensorTypeAndShapeInfo* info, const std::string& name) {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  check(api->GetTensorElementType(info, &type));
  if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) throw std::runtime_error(name + " is not float32");
}

size_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), size_t{1}, [](size_t all, int64_t size) {
    if (size <= 0) throw std::runtime_error("the engine has a dynamic dimension");
    return all * static_cast<size_t>(size);
  });
}

std::string name_at(const OrtSession* session, OrtAllocator* allocator, size_t index, bool input) {
  char* text = nullptr;
  check(input ? api->SessionGetInputName(session, index, allocator, &text)
              : api->SessionGetOutputName(session, index, allocator, &text));
  std::string name = text;
  check(api->AllocatorFree(allocator, text));
  return name;
}

Port input_of(const OrtSession* session, OrtAllocator* allocator) {
  size_t count = 0;
  check(api->SessionGetInputCount(session, &count));
  if (count != 1) throw std::runtime_error("this example feeds engines of one input");
  OrtTypeInfo* raw = nullptr;
  check(api->SessionGetInputTypeInfo(session, 0, &raw));
  const Owned<OrtTypeInfo> type(raw, api->ReleaseTypeInfo);
  const OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api->CastTypeInfoToTensorInfo(type.get(), &info));
  if (info == nullptr) throw std::runtime_error("the input is no tensor");
  Port port{name_at(session, allocator, 0, true), shape_of(info)};
  must_be_float(info, port.name);
  port.elements = product(port.shape);
  return port;
}

void write(const OrtValue* value, const std::string& name) {
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  check(api->GetTensorTypeAndShape(value, &raw));
  const Owned<OrtTensorTypeAndShapeInfo> info(raw, api->ReleaseTensorTypeAndShapeInfo);
  must_be_float(info.get(), name);
  size_t elements = 0;
  check(api->GetTensorShapeElementCount(info.get(), &elements));
  void* values = nullptr;
  check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &values));
  std::cerr << name << ":";
  for (const int64_t size : shape_of(info.get())) std::cerr << ' ' << size;
  std::cerr << '\n';
  std::cout.write(static_cast<const char*>(values), static_cast<std::streamsize>(elements * sizeof(float)));
}

void run(const std::string& bundle) {
  OrtEnv* env = nullptr;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "hwprune", &env));
  const Owned<OrtEnv> keep_env(env, api->ReleaseEnv);
  OrtSessionOptions* options = nullptr;
  check(api->CreateSessionOptions(&options));
  const Owned<OrtSessionOptions> keep_options(options, api->ReleaseSessionOptions);
  check(api->SetIntraOpNumThreads(options, 1));  // "threads" in manifest.json
  OrtSession* session = nullptr;
  check(api->CreateSession(env, (bundle + "/model.onnx").c_str(), options, &session));
  const Owned<OrtSession> keep_session(session, api->ReleaseSession);
  OrtAllocator* allocator = nullptr;
  check(api->GetAllocatorWithDefaultOptions(&allocator));

  const Port input = input_of(session, allocator);
  std::string bytes{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  if (bytes.size() != input.elements * sizeof(float)) {
    throw std::runtime_error(input.name + " takes " + std::to_string(input.elements * sizeof(float)) +
                             " bytes, not " + std::to_string(bytes.size()));
  }
  OrtMemoryInfo* memory = nullptr;
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  const Owned<OrtMemoryInfo> keep_memory(memory, api->ReleaseMemoryInfo);
  OrtValue* fed = nullptr;
  check(api->CreateTensorWithDataAsOrtValue(memory, bytes.data(), bytes.size(), input.shape.data(), input.shape.size(),
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &fed));
  const Owned<OrtValue> keep_fed(fed, api->ReleaseValue);

  size_t count = 0;
  check(api->SessionGetOutputCount(session, &count));
  std::vector<std::string> names;
  for (size_t index = 0; index < count; ++index) names.push_back(name_at(session, allocator, index, false));
  std::vector<const char*> wanted;
  for (const std::string& name : names) wanted.push_back(name.c_str());
  std::vector<OrtValue*> found(count, nullptr);
  const char* input_name = input.name.c_str();
  check(api->Run(session, nullptr, &input_name, &fed, 1, wanted.data(), count, found.data()));
  std::vector<Owned<OrtValue>> keep_found;
  for (OrtValue* value : found) keep_found.emplace_back(value, api->ReleaseValue);
  for (size_t index = 0; index < count; ++index) write(found[index], names[index]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: infer BUNDLE < input.raw > output.raw\n");
    return 1;
  }
  api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    std::fprintf(stderr, "error: this ONNX Runtime is older than the headers (API %d)\n", ORT_API_VERSION);
    return 1;
  }
  try {
    run(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
