// CrashDisk: a file system for SQLite that does what disks do at the worst moment. It counts points
// (every write, sync, truncation and deletion) and at the one that was chosen the power goes, or
// the call fails, or the disk is full. It knows which bytes were synced: CutPower leaves those, and
// of the rest what chance leaves, whole or torn at sectors. Used by tests of the usage store.
//
// A sync that fails is as a kernel's: what it should have written stays to be read, and is never
// written, however often sync is called again.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

struct sqlite3_vfs;

namespace tuppence {

class CrashDisk {
 public:
  enum class Fault { kNone, kPowerCut, kFailOnce, kFull, kNoSync };

  // Registered with SQLite under name(). The files lie on the machine's own file system.
  explicit CrashDisk(uint64_t seed);
  ~CrashDisk();

  const std::string& name() const { return name_; }
  // From now on points count from 0. At `point` the fault begins: once, or for good (kPowerCut), or
  // until Repair (kFull, kNoSync).
  void Plan(Fault fault, int64_t point);
  void Repair() { fault_ = Fault::kNone; }
  int64_t points() const { return points_; }
  bool reached() const { return reached_; }
  // Everything that uses the files must be closed. They then are what the next start finds.
  void CutPower();

 private:
  friend struct CrashVfs;
  struct Change {
    int64_t offset = 0;
    std::string bytes;
    int64_t truncate_to = -1;  // not -1: this, in place of bytes
  };
  struct Image {
    bool exists = false;  // on the disk, whatever the page cache says
    bool removed = false;
    std::string synced;
    std::vector<Change> unsynced;
  };

  enum class Verdict { kDo, kPart, kRefuse };
  // Counts a point and says what becomes of it; *code is SQLite's for a call that fails.
  Verdict Meet(bool is_write, int* code);
  void Keep(Image* image, bool all);
  static void Apply(const Change& change, std::string* content);
  Change Torn(const Change& change);
  bool Chance() { return (random_() & 1) != 0; }

  std::string name_;
  sqlite3_vfs* vfs_;
  std::mt19937_64 random_;
  std::atomic<Fault> fault_ = Fault::kNone;  // a test sets it while a store is at work
  std::atomic<int64_t> point_ = -1;
  std::atomic<int64_t> points_ = 0;
  std::atomic<bool> reached_ = false;
  std::map<std::string, Image> images_;  // by path
};

}  // namespace tuppence
