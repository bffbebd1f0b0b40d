#include "runtime/runner/device_weights.h"

#include "runtime/runner/weight_placement.h"

namespace llama4rt {
namespace {

bool is_file(const StoredTensor& tensor) { return tensor.name.starts_with(engine_format::kFilePrefix); }

// visit(tensor, offset) for every tensor that goes to the device; returns where the last one ends.
template <class Visit>
int64_t place(const EngineFile& file, const Visit& visit) {
  int64_t at = 0;
  for (const StoredTensor& tensor : file.tensors()) {
    if (is_file(tensor)) continue;
    visit(tensor, at);
    at += placed_bytes(int64_t(tensor.bytes));
  }
  return at;
}

}  // namespace

int64_t DeviceWeights::bytes(const EngineFile& file) {
  return place(file, [](const StoredTensor&, int64_t) {});
}

DeviceWeights::DeviceWeights(const EngineFile& file, Device& device)
    : file_(file), device_(device), bytes_(bytes(file)) {
  base_ = static_cast<char*>(device.allocate(size_t(bytes_)));
  try {
    file.advise(Advice::kSequential);
    place(file, [&](const StoredTensor& tensor, int64_t offset) {
      const auto payload = file.bytes(tensor);
      device.upload(base_ + offset, payload.data(), payload.size());
      offsets_.emplace(tensor.name, offset);
    });
    device.finish_upload();
    file.advise(
        Advice::kDontNeed);  // the pages stay in the page cache as long as nobody else wants the memory
  } catch (...) {
    device.deallocate(base_, size_t(bytes_));
    throw;
  }
}

DeviceWeights::~DeviceWeights() { device_.deallocate(base_, size_t(bytes_)); }

char* DeviceWeights::at(const std::string& name) const { return base_ + offsets_.at(name); }

Weight DeviceWeights::weight(std::string_view name) const {
  Weight w = file_.weight(name);
  const std::string text(name);
  w.data = at(text);
  for (const SideFormat& format : kSides)
    if (has_side(w, format.side)) set_side(w, format.side, at(text + std::string(format.suffix)));
  return w;
}

Tensor DeviceWeights::tensor(std::string_view name) const {
  Tensor t = file_.tensor(name);
  t.data = at(std::string(name));
  return t;
}

}  // namespace llama4rt
