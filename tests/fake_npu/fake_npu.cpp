// A device named "npu" made of host memory: torch's PrivateUse1 backend, with as much of one as a real device shows.
//
// Its memory is counted and can be limited, it has streams, events and generators of its own, and an op whose tensors
// lie on different devices is refused. What is not written here is computed by the CPU's kernel on copies.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <string>
#include <unordered_map>

namespace {

constexpr auto NPU = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex DEVICES = 2;
constexpr size_t AGGREGATE = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

thread_local c10::DeviceIndex current_device = 0;
thread_local c10::StreamId current_stream[DEVICES] = {};

void check_device(c10::DeviceIndex device) {
  TORCH_CHECK(device >= 0 && device < DEVICES, "invalid device ordinal: there are ", int{DEVICES}, " devices");
}

c10::DeviceIndex index_of(c10::Device device) {
  return device.has_index() ? device.index() : current_device;
}

// ---------------------------------------------------------------------------------------------------------- memory

class Memory final : public c10::DeviceAllocator {
 public:
  static Memory& get() {
    static auto* memory = new Memory();  // never destroyed: tensors may outlive every static object
    return *memory;
  }

  c10::DataPtr allocate(size_t bytes) override {
    const auto device = current_device;
    void* data = nullptr;
    if (bytes > 0) {
      const std::lock_guard<std::mutex> guard(lock_);
      auto& stats = stats_[device];
      const int64_t held = stats.allocated_bytes[AGGREGATE].current;
      if (held + static_cast<int64_t>(bytes) > limit_) {
        ++stats.num_ooms;
        TORCH_CHECK_WITH(
            OutOfMemoryError, false, "NPU out of memory. Tried to allocate ", bytes, " bytes; ", limit_,
            " bytes total capacity; ", held, " bytes already allocated");
      }
      TORCH_CHECK(posix_memalign(&data, 64, bytes) == 0, "the host has no memory left for the fake device");
      blocks_[data] = {bytes, device};
      stats.allocated_bytes[AGGREGATE].increase(bytes);
      stats.reserved_bytes[AGGREGATE].increase(bytes);
      stats.allocation[AGGREGATE].increase(1);
    }
    return {data, data, &release, c10::Device(NPU, device)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}  // freed memory goes back at once
  void recordStream(const c10::DataPtr&, c10::Stream) override {}

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    const std::lock_guard<std::mutex> guard(lock_);
    return stats_[device];
  }
  void resetAccumulatedStats(c10::DeviceIndex device) override {
    const std::lock_guard<std::mutex> guard(lock_);
    stats_[device].allocated_bytes[AGGREGATE].reset_accumulated();
  }
  void resetPeakStats(c10::DeviceIndex device) override {
    const std::lock_guard<std::mutex> guard(lock_);
    stats_[device].allocated_bytes[AGGREGATE].reset_peak();
    stats_[device].reserved_bytes[AGGREGATE].reset_peak();
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    const std::lock_guard<std::mutex> guard(lock_);
    const int64_t free = limit_ - stats_[device].allocated_bytes[AGGREGATE].current;
    return {static_cast<size_t>(free), static_cast<size_t>(limit_)};
  }

  void limit(int64_t bytes) {
    const std::lock_guard<std::mutex> guard(lock_);
    limit_ = bytes;
  }

 private:
  struct Block {
    size_t bytes;
    c10::DeviceIndex device;
  };

  Memory() {
    const char* limit = std::getenv("FAKE_NPU_MEMORY_BYTES");
    limit_ = limit == nullptr ? int64_t{64} << 30 : std::stoll(limit);
  }

  static void release(void* data) {
    if (data == nullptr) return;
    auto& memory = get();
    const std::lock_guard<std::mutex> guard(memory.lock_);
    const auto found = memory.blocks_.find(data);
    auto& stats = memory.stats_[found->second.device];
    stats.allocated_bytes[AGGREGATE].decrease(found->second.bytes);
    stats.reserved_bytes[AGGREGATE].decrease(found->second.bytes);
    stats.allocation[AGGREGATE].decrease(1);
    memory.blocks_.erase(found);
    std::free(data);
  }

  std::mutex lock_;
  int64_t limit_;
  std::unordered_map<void*, Block> blocks_;
  c10::CachingDeviceAllocator::DeviceStats stats_[DEVICES];
};

// The same bytes as a CPU tensor; it keeps the device's tensor alive.
at::Tensor on_host(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void*) {}, tensor.options().device(c10::kCPU));
}

// ------------------------------------------------------------------------------------------ streams, events, devices

// Everything is done when the call returns, so a stream is a number and an event is the time of its record.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  using Time = std::chrono::steady_clock::time_point;

  c10::DeviceType type() const override { return NPU; }
  c10::Device getDevice() const override { return {NPU, current_device}; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    setDevice(device);
    return before;
  }
  void setDevice(c10::Device device) const override {
    check_device(index_of(device));
    current_device = index_of(device);
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current_device = index_of(device); }
  c10::DeviceIndex deviceCount() const noexcept override { return DEVICES; }
  void synchronizeDevice(const c10::DeviceIndex) const override {}

  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::UNSAFE, device, current_stream[index_of(device)]);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    static std::atomic<c10::StreamId> streams{0};
    return c10::Stream(c10::Stream::UNSAFE, device, ++streams);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getNewStream(device, 0); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto before = getStream(stream.device());
    current_stream[index_of(stream.device())] = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}

  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr) *event = new Time();
    *static_cast<Time*>(*event) = std::chrono::steady_clock::now();
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<Time*>(event); }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  double elapsedTime(void* first, void* second, const c10::DeviceIndex) const override {
    return std::chrono::duration<double, std::milli>(*static_cast<Time*>(second) - *static_cast<Time*>(first)).count();
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// -------------------------------------------------------------------------------------------------------- randomness

// A generator of the device; the numbers come from a CPU generator within, so that the CPU's kernels can draw them.
class Random final : public c10::GeneratorImpl {
 public:
  explicit Random(c10::DeviceIndex device, at::Generator inner = at::detail::createCPUGenerator())
      : c10::GeneratorImpl({NPU, device}, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)), inner(std::move(inner)) {}

  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { inner.set_offset(offset); }
  uint64_t get_offset() const override { return inner.get_offset(); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }

  at::Generator inner;

 private:
  Random* clone_impl() const override { return new Random(device().index(), inner.clone()); }
};

const at::Generator& default_generator(c10::DeviceIndex device) {
  static const at::Generator generators[DEVICES] = {at::make_generator<Random>(0), at::make_generator<Random>(1)};
  check_device(device);
  return generators[device];
}

at::Generator host_generator(const at::Generator& generator) {
  TORCH_CHECK(
      generator.device().type() == NPU, "Expected a 'npu' device type for generator but found '", generator.device(),
      "'");
  return static_cast<Random*>(generator.unsafeGetGeneratorImpl())->inner;
}

// ------------------------------------------------------------------------------------------- what torch asks a backend

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return DEVICES; }
  c10::DeviceIndex getCurrentDevice() const override { return current_device; }
  void setCurrentDevice(c10::DeviceIndex device) const override {
    check_device(device);
    current_device = device;
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    const auto before = current_device;
    setCurrentDevice(device);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return device < 0 ? current_device : exchangeDevice(device);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex device) const override {
    return default_generator(device < 0 ? current_device : device);
  }
  at::Generator getNewGenerator(c10::DeviceIndex device) const override {
    return at::make_generator<Random>(device < 0 ? current_device : device);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    const c10::DeviceGuard guard(storage.device());
    auto data = Memory::get().allocate(bytes);
    Memory::get().copy_data(data.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.set_data_ptr_noswap(std::move(data));
    storage.set_nbytes(bytes);
  }
};

// --------------------------------------------------------------------------------------------------------------- ops

constexpr c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

at::Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device.value_or(c10::Device(NPU, current_device)));
  return at::detail::empty_generic(size, &Memory::get(), KEYS, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(device.value_or(c10::Device(NPU, current_device)));
  return at::detail::empty_strided_generic(size, stride, &Memory::get(), KEYS, c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool) {
  on_host(target).copy_(on_host(source));
  return target;
}

const at::Tensor& resize_contiguous(const at::Tensor& tensor, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  if (tensor.sizes() == size) return tensor;  // with the strides that it has
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  const auto bytes = at::detail::computeStorageNbytesContiguous(size, tensor.element_size(), tensor.storage_offset());
  if (bytes > impl->storage().nbytes()) Hooks().resizePrivateUse1Bytes(impl->storage(), bytes);
  return tensor;
}

at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  resize_contiguous(target, source.sizes(), std::nullopt);
  return copy_from(source, target, false);
}

at::Tensor& set_storage(
    at::Tensor& result, at::Storage storage, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  auto* impl = result.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset);
  if (stride.size() == size.size()) {
    impl->set_sizes_and_strides(size, stride);
  } else {
    impl->set_sizes_contiguous(size);
  }
  return result;
}

// As torch-npu has it: a module's parameters stay themselves, and tied ones tied, when the module moves to the device.
bool may_take_place_of(const at::Tensor& tensor, const at::Tensor& other) {
  const auto dense = [](const at::Tensor& one) {
    return one.layout() == at::kStrided && (one.is_cpu() || one.is_privateuseone());
  };
  return dense(tensor) && dense(other);
}

at::Scalar item(const at::Tensor& tensor) { return on_host(tensor).item(); }

// A number may lie on the host (torch wraps every Python number so); everything else has to be on one device.
void refuse_mixed(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  std::optional<c10::Device> seen;
  const auto look = [&](const at::Tensor& tensor) {
    if (!tensor.defined() || (tensor.is_cpu() && tensor.dim() == 0)) return;
    TORCH_CHECK(
        !seen || *seen == tensor.device(), "Expected all tensors to be on the same device, but ", op.operator_name(),
        " got ", *seen, " and ", tensor.device());
    seen = tensor.device();
  };
  for (const auto& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (value.isTensor()) {
      look(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorList()) look(tensor);
    } else if (value.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
        if (tensor) look(*tensor);
      }
    }
  }
}

// Random numbers come from the device's generator, also where the op names none.
void lend_generators(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  static const auto wanted = c10::OptionalType::create(c10::GeneratorType::get());
  const auto& arguments = op.schema().arguments();
  for (size_t place = 0; place < arguments.size(); ++place) {
    if (!arguments[place].type()->isSubtypeOf(*wanted)) continue;
    auto& value = torch::jit::peek(stack, place, arguments.size());
    value = host_generator(value.isGenerator() ? value.toGenerator() : default_generator(current_device));
  }
}

std::mutex fallbacks_lock;
c10::Dict<std::string, int64_t>& fallbacks() {
  static auto* counts = new c10::Dict<std::string, int64_t>();
  return *counts;
}

void compute_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  refuse_mixed(op, *stack);
  lend_generators(op, *stack);
  {
    const std::lock_guard<std::mutex> guard(fallbacks_lock);
    const auto name = c10::toString(op.operator_name());
    const auto found = fallbacks().find(name);
    fallbacks().insert_or_assign(name, found == fallbacks().end() ? 1 : found->value() + 1);
  }
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}

[[maybe_unused]] const bool registered = [] {
  c10::SetAllocator(NPU, &Memory::get());
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute_on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_has_compatible_shallow_copy_type", &may_take_place_of);
  m.impl("_local_scalar_dense", &item);
  m.impl("resize_", &resize_contiguous);
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("set_.source_Tensor", TORCH_FN(at::native::set_tensor_));
  m.impl("set_.source_Storage", TORCH_FN(at::native::set_));
  m.impl("set_.source_Storage_storage_offset", &set_storage);
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  KERNEL_PRIVATEUSEONE(mm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(addmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(bmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(matmul, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(linear, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(scaled_dot_product_attention, lower_precision_fp)
}

// What tests and the Python half ask of the device: torch.ops.fake_npu.
TORCH_LIBRARY(fake_npu, m) {
  m.def("host_alias(Tensor tensor) -> Tensor", [](const at::Tensor& tensor) { return on_host(tensor.detach()); });
  m.def("limit_memory(int num_bytes) -> ()", [](int64_t bytes) { Memory::get().limit(bytes); });
  m.def("fallbacks() -> Dict(str, int)", [] {
    const std::lock_guard<std::mutex> guard(fallbacks_lock);
    return fallbacks().copy();
  });
  m.def("default_generator(int device) -> Generator?", [](int64_t device) -> std::optional<at::Generator> {
    return default_generator(static_cast<c10::DeviceIndex>(device));
  });
}
