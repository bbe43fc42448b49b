// Field numbers, names and types of tuppence.v1 never change: what the proto says today must hold
// every line of what was recorded. New lines may be added: run with TUPPENCE_RECORD=1 to record.
#include <google/protobuf/descriptor.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tuppence/v1/tuppence.pb.h"

namespace tuppence {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

std::string TypeOf(const FieldDescriptor& field) {
  if (field.message_type() != nullptr) return field.message_type()->full_name();
  if (field.enum_type() != nullptr) return field.enum_type()->full_name();
  return field.type_name();
}

void Describe(const EnumDescriptor& type, std::set<std::string>* lines) {
  for (int i = 0; i < type.value_count(); ++i) {
    lines->insert(
        absl::StrCat(type.full_name(), " ", type.value(i)->number(), " ", type.value(i)->name()));
  }
}

void Describe(const Descriptor& message, std::set<std::string>* lines) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const char* label = field.is_repeated() ? "repeated " : field.has_presence() ? "optional " : "";
    const auto* oneof = field.real_containing_oneof();
    lines->insert(absl::StrCat(message.full_name(), " ", field.number(), " ", label, TypeOf(field),
                               " ", field.name(),
                               oneof == nullptr ? "" : absl::StrCat(" of ", oneof->name())));
  }
  for (int i = 0; i < message.nested_type_count(); ++i) Describe(*message.nested_type(i), lines);
  for (int i = 0; i < message.enum_type_count(); ++i) Describe(*message.enum_type(i), lines);
}

std::set<std::string> DescribeFile() {
  std::set<std::string> lines;
  const auto* file = v1::GenerateRequest::descriptor()->file();
  for (int i = 0; i < file->message_type_count(); ++i) Describe(*file->message_type(i), &lines);
  for (int i = 0; i < file->enum_type_count(); ++i) Describe(*file->enum_type(i), &lines);
  for (int i = 0; i < file->service_count(); ++i) {
    const auto* service = file->service(i);
    for (int j = 0; j < service->method_count(); ++j) {
      const auto* method = service->method(j);
      lines.insert(absl::StrCat(method->full_name(), " (", method->input_type()->full_name(),
                                ") returns (", method->server_streaming() ? "stream " : "",
                                method->output_type()->full_name(), ")"));
    }
  }
  return lines;
}

TEST(ProtoContractTest, NothingThatWasPromisedHasChanged) {
  const std::string path =
      absl::StrCat(TUPPENCE_SOURCE_DIR, "/tests/service/tuppence_v1_contract.txt");
  const std::set<std::string> today = DescribeFile();
  if (std::getenv("TUPPENCE_RECORD") != nullptr) {
    std::ofstream file(path);
    for (const std::string& line : today) file << line << "\n";
  }
  std::ifstream file(path);
  std::set<std::string> recorded;
  for (std::string line; std::getline(file, line);) {
    recorded.insert(line);
    EXPECT_EQ(today.count(line), 1u) << "gone or changed: " << line;
  }
  EXPECT_GT(recorded.size(), 80u);
  for (const std::string& line : today) {
    EXPECT_EQ(recorded.count(line), 1u) << "not recorded yet, see the top of this file: " << line;
  }
}

}  // namespace
}  // namespace tuppence
