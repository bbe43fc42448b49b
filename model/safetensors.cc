// See safetensors.h.
#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/check.h"
#include "model/strict_json.h"

namespace tuppence {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kRankMax = 8;
constexpr char kWayOut[] = "; the file is damaged or was altered; download it again";

struct HeaderTensor {
  SourceTensor tensor;
  int64_t begin = 0;  // in the data
  int64_t end = 0;
};

// Types that the format knows. Ours are those a Phi-3 checkpoint holds; the others are refused with
// their name, for the file is not damaged then.
std::optional<DType> SupportedType(const std::string& name) {
  if (name == "F32") return DType::kF32;
  if (name == "BF16") return DType::kBf16;
  if (name == "F16") return DType::kF16;
  return std::nullopt;
}

bool IsKnownType(const std::string& name) {
  static constexpr std::array kKnown = {"BOOL", "U8",  "I8",      "F8_E4M3", "F8_E5M2", "U16",
                                        "I16",  "U32", "I32",     "U64",     "I64",     "F64",
                                        "C64",  "F4",  "F8_E8M0", "F6_E2M3", "F6_E3M2"};
  return std::find(kKnown.begin(), kKnown.end(), name) != kKnown.end();
}

absl::Status Damaged(const std::string& reason) {
  return absl::InvalidArgumentError(absl::StrCat(reason, kWayOut));
}

// A whole number that is not negative and fits 63 bits.
std::optional<int64_t> Count(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const uint64_t number = value.get<uint64_t>();
  if (number > uint64_t{INT64_MAX}) return std::nullopt;
  return static_cast<int64_t>(number);
}

absl::StatusOr<DType> ParseType(const json& entry) {
  const json type = entry.value("dtype", json());
  if (!type.is_string()) return Damaged(absl::StrCat("dtype is ", ShowJson(type)));
  const std::string name = type.get<std::string>();
  if (const std::optional<DType> supported = SupportedType(name)) return *supported;
  if (!IsKnownType(name)) return Damaged(absl::StrCat("dtype is ", ShowJson(type), ", unknown"));
  return absl::InvalidArgumentError(
      absl::StrCat("dtype is ", name,
                   "; supported are F32, BF16 and F16; download the checkpoint in one of these"));
}

absl::StatusOr<std::vector<int64_t>> ParseShape(const json& entry) {
  const json shape = entry.value("shape", json());
  if (!shape.is_array() || shape.size() > kRankMax) {
    return Damaged(absl::StrCat("shape is ", ShowJson(shape), "; allowed is a list of at most ",
                                kRankMax, " numbers"));
  }
  std::vector<int64_t> dimensions;
  for (const json& value : shape) {
    const std::optional<int64_t> dimension = Count(value);
    if (!dimension.has_value()) return Damaged(absl::StrCat("shape is ", ShowJson(shape)));
    dimensions.push_back(*dimension);
  }
  return dimensions;
}

// shape x type in bytes, unless that overflows.
std::optional<int64_t> BytesOf(const std::vector<int64_t>& shape, DType type) {
  int64_t bytes = static_cast<int64_t>(BytesOf(type));
  for (const int64_t dimension : shape) {
    if (__builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::StatusOr<HeaderTensor> ParseTensor(const std::string& name, const json& entry) {
  if (!entry.is_object() || entry.size() != 3) {
    return Damaged(absl::StrCat("its entry is ", ShowJson(entry),
                                "; expected are dtype, shape and data_offsets"));
  }
  const absl::StatusOr<DType> type = ParseType(entry);
  if (!type.ok()) return type.status();
  absl::StatusOr<std::vector<int64_t>> shape = ParseShape(entry);
  if (!shape.ok()) return shape.status();

  const json offsets = entry.value("data_offsets", json());
  const bool two = offsets.is_array() && offsets.size() == 2;
  const std::optional<int64_t> begin = two ? Count(offsets[0]) : std::nullopt;
  const std::optional<int64_t> end = two ? Count(offsets[1]) : std::nullopt;
  if (!begin.has_value() || !end.has_value() || *end < *begin) {
    return Damaged(absl::StrCat("data_offsets is ", ShowJson(offsets),
                                "; allowed are two rising numbers that are not negative"));
  }
  const std::optional<int64_t> bytes = BytesOf(*shape, *type);
  const std::string shown = absl::StrCat("[", absl::StrJoin(*shape, ", "), "] of ", NameOf(*type));
  if (!bytes.has_value()) return Damaged(absl::StrCat("its shape ", shown, " overflows 63 bits"));
  if (*bytes != *end - *begin) {
    return Damaged(absl::StrCat("its shape ", shown, " takes ", *bytes,
                                " bytes, but its data_offsets span ", *end - *begin));
  }
  return HeaderTensor{{name, *type, *std::move(shape), ""}, *begin, *end};
}

absl::Status CheckMetadata(const json& metadata) {
  const bool strings =
      metadata.is_object() && std::all_of(metadata.begin(), metadata.end(),
                                          [](const json& value) { return value.is_string(); });
  if (strings) return absl::OkStatus();
  return Damaged(
      absl::StrCat("__metadata__ is ", ShowJson(metadata), "; allowed is an object of strings"));
}

absl::StatusOr<std::vector<HeaderTensor>> ParseHeader(const std::string& text) {
  // The published reader takes only a header that starts with its brace; blanks may follow the
  // last.
  if (text.empty() || text[0] != '{') return Damaged("the header is not a JSON object");
  const absl::StatusOr<json> header = ParseStrictJson(text);
  if (!header.ok()) {
    return Damaged(absl::StrCat("the header: ", std::string(header.status().message())));
  }
  std::vector<HeaderTensor> tensors;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      absl::Status metadata = CheckMetadata(entry);
      if (!metadata.ok()) return metadata;
      continue;
    }
    absl::StatusOr<HeaderTensor> tensor = ParseTensor(name, entry);
    if (!tensor.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", ShowJson(name), ": ", std::string(tensor.status().message())));
    }
    tensors.push_back(*std::move(tensor));
  }
  return tensors;
}

// The tensors' bytes must tile the data exactly: what no tensor owns could hide anything, and what
// two own was never written by an honest writer.
absl::Status CheckTiling(std::vector<HeaderTensor>& tensors, int64_t data_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const HeaderTensor& a, const HeaderTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t expected = 0;
  for (const HeaderTensor& tensor : tensors) {
    if (tensor.begin != expected) {
      return Damaged(absl::StrCat(
          "tensor ", ShowJson(tensor.tensor.name), ": its data starts at offset ", tensor.begin,
          tensor.begin < expected ? ", inside the tensor before it, which ends at "
                                  : ", which leaves a gap after the data before it, which ends at ",
          expected));
    }
    if (tensor.end > data_bytes) {
      return Damaged(absl::StrCat("tensor ", ShowJson(tensor.tensor.name), ": its data ends at ",
                                  tensor.end, ", but the file holds ", data_bytes,
                                  " bytes of data; it was cut off"));
    }
    expected = tensor.end;
  }
  if (expected != data_bytes) {
    return Damaged(absl::StrCat("the tensors end at offset ", expected, " of the data, but ",
                                data_bytes - expected, " more bytes follow"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadHeader(const File& file) {
  if (file.bytes() < static_cast<int64_t>(kLengthBytes)) {
    return Damaged(absl::StrCat("it has ", file.bytes(),
                                " bytes, fewer than the 8 of the header's length; it was cut off"));
  }
  std::array<uint8_t, kLengthBytes> raw;
  absl::Status read = file.ReadAt(0, kLengthBytes, raw.data());
  if (!read.ok()) return read;
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint64_t{raw[i]} << (8 * i);
  if (length > uint64_t{kSafetensorsHeaderBytesMax}) {
    return Damaged(absl::StrCat("the header's length is ", length, " bytes; allowed are ",
                                kSafetensorsHeaderBytesMax));
  }
  const int64_t rest = file.bytes() - static_cast<int64_t>(kLengthBytes);
  if (static_cast<int64_t>(length) > rest) {
    return Damaged(absl::StrCat("the header's length is ", length, " bytes, but only ", rest,
                                " follow; it was cut off"));
  }
  std::string text(length, '\0');
  read = file.ReadAt(kLengthBytes, static_cast<int64_t>(length), text.data());
  if (!read.ok()) return read;
  return text;
}

// "PATH: REASON", once.
absl::Status InFile(const std::string& path, const absl::Status& status) {
  const std::string message(status.message());
  if (message.find(path) != std::string::npos) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", message));
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::string> text = ReadHeader(*file);
  if (!text.ok()) return InFile(path, text.status());
  absl::StatusOr<std::vector<HeaderTensor>> tensors = ParseHeader(*text);
  if (!tensors.ok()) return InFile(path, tensors.status());
  const int64_t data_begin = static_cast<int64_t>(kLengthBytes + text->size());
  const absl::Status tiling = CheckTiling(*tensors, file->bytes() - data_begin);
  if (!tiling.ok()) return InFile(path, tiling);

  SafetensorsFile opened(*std::move(file));
  for (HeaderTensor& tensor : *tensors) {
    tensor.tensor.file = path;
    opened.tensors_.push_back(std::move(tensor.tensor));
    opened.offsets_.push_back(data_begin + tensor.begin);
  }
  return opened;
}

absl::Status SafetensorsFile::ReadRows(size_t index, int64_t first_row, int64_t rows,
                                       void* out) const {
  const SourceTensor& tensor = tensors_[index];
  CHECK_GE(tensor.shape.size(), 1u);
  CHECK_GE(first_row, 0);
  CHECK_LE(first_row + rows, tensor.shape[0]);
  const std::vector<int64_t> row_shape(tensor.shape.begin() + 1, tensor.shape.end());
  const int64_t row_bytes = *BytesOf(row_shape, tensor.type);
  const absl::Status read =
      file_.ReadAt(offsets_[index] + first_row * row_bytes, rows * row_bytes, out);
  if (read.ok()) return read;
  return absl::Status(read.code(), absl::StrCat("tensor ", ShowJson(tensor.name), ": ",
                                                std::string(read.message())));
}

}  // namespace tuppence
