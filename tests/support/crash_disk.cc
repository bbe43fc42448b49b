#include "tests/support/crash_disk.h"

#include <sqlite3.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/check.h"

namespace tuppence {
namespace {

constexpr int64_t kSector = 512;

}  // namespace

// SQLite's tables of functions, each handing on to the machine's own file system.
struct CrashVfs {
  struct File {
    sqlite3_file base;
    CrashDisk* disk;
    CrashDisk::Image* image;  // null: a file that a crash may lose as a whole (-shm, temporary)
    sqlite3_file* real;       // right behind this struct
  };

  static File* Of(sqlite3_file* file) { return reinterpret_cast<File*>(file); }
  static sqlite3_file* Real(sqlite3_file* file) { return Of(file)->real; }
  static CrashDisk* DiskOf(sqlite3_vfs* vfs) { return static_cast<CrashDisk*>(vfs->pAppData); }
  static sqlite3_vfs* Machine() { return sqlite3_vfs_find("unix"); }

  static int Open(sqlite3_vfs* vfs, sqlite3_filename path, sqlite3_file* file, int flags,
                  int* out_flags) {
    File* one = Of(file);
    *one = {};
    one->disk = DiskOf(vfs);
    one->real = reinterpret_cast<sqlite3_file*>(one + 1);
    const int code = Machine()->xOpen(Machine(), path, one->real, flags, out_flags);
    if (one->real->pMethods == nullptr) return code;
    file->pMethods = Methods();
    if (code == SQLITE_OK && (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL)) != 0) {
      one->image = &one->disk->images_[path];
      one->image->removed = false;
    }
    return code;
  }

  static int Write(sqlite3_file* file, const void* bytes, int size, sqlite3_int64 offset) {
    File* one = Of(file);
    if (one->image == nullptr) return one->real->pMethods->xWrite(one->real, bytes, size, offset);
    CrashDisk::Change change{offset, std::string(static_cast<const char*>(bytes), size)};
    int code = SQLITE_OK;
    const CrashDisk::Verdict verdict = one->disk->Meet(/*is_write=*/true, &code);
    if (verdict == CrashDisk::Verdict::kRefuse) return code;
    if (verdict == CrashDisk::Verdict::kPart) {
      change.bytes.resize(change.bytes.size() / 2 / kSector * kSector);
    }
    const int done = one->real->pMethods->xWrite(one->real, change.bytes.data(),
                                                 static_cast<int>(change.bytes.size()), offset);
    one->image->unsynced.push_back(std::move(change));
    return code != SQLITE_OK ? code : done;
  }

  static int Truncate(sqlite3_file* file, sqlite3_int64 size) {
    File* one = Of(file);
    if (one->image == nullptr) return one->real->pMethods->xTruncate(one->real, size);
    int code = SQLITE_OK;
    if (one->disk->Meet(/*is_write=*/true, &code) != CrashDisk::Verdict::kDo) return code;
    one->image->unsynced.push_back({0, "", size});
    return one->real->pMethods->xTruncate(one->real, size);
  }

  static int Sync(sqlite3_file* file, int) {
    File* one = Of(file);
    if (one->image == nullptr) return SQLITE_OK;
    int code = SQLITE_OK;
    const bool fails = one->disk->Meet(/*is_write=*/false, &code) != CrashDisk::Verdict::kDo;
    if (fails && one->disk->fault_ == CrashDisk::Fault::kPowerCut) return code;
    one->disk->Keep(one->image, /*all=*/!fails);
    return code;
  }

  static int Delete(sqlite3_vfs* vfs, const char* path, int sync_folder) {
    CrashDisk* disk = DiskOf(vfs);
    const auto found = disk->images_.find(path);
    if (found == disk->images_.end()) return Machine()->xDelete(Machine(), path, sync_folder);
    int code = SQLITE_OK;
    if (disk->Meet(/*is_write=*/false, &code) != CrashDisk::Verdict::kDo) return code;
    found->second.removed = true;
    return Machine()->xDelete(Machine(), path, 0);
  }

  static const sqlite3_io_methods* Methods() {
    static const sqlite3_io_methods methods = [] {
      sqlite3_io_methods m = {};
      m.iVersion = 2;  // with shared memory, without memory maps
      m.xClose = [](sqlite3_file* f) { return Real(f)->pMethods->xClose(Real(f)); };
      m.xRead = [](sqlite3_file* f, void* to, int size, sqlite3_int64 offset) {
        return Real(f)->pMethods->xRead(Real(f), to, size, offset);
      };
      m.xWrite = Write;
      m.xTruncate = Truncate;
      m.xSync = Sync;
      m.xFileSize = [](sqlite3_file* f, sqlite3_int64* size) {
        return Real(f)->pMethods->xFileSize(Real(f), size);
      };
      m.xLock = [](sqlite3_file* f, int lock) { return Real(f)->pMethods->xLock(Real(f), lock); };
      m.xUnlock = [](sqlite3_file* f, int lock) {
        return Real(f)->pMethods->xUnlock(Real(f), lock);
      };
      m.xCheckReservedLock = [](sqlite3_file* f, int* out) {
        return Real(f)->pMethods->xCheckReservedLock(Real(f), out);
      };
      m.xFileControl = [](sqlite3_file* f, int op, void* argument) {
        return Real(f)->pMethods->xFileControl(Real(f), op, argument);
      };
      m.xSectorSize = [](sqlite3_file*) { return static_cast<int>(kSector); };
      m.xDeviceCharacteristics = [](sqlite3_file* f) {
        return Real(f)->pMethods->xDeviceCharacteristics(Real(f));
      };
      m.xShmMap = [](sqlite3_file* f, int page, int size, int extend, void volatile** out) {
        return Real(f)->pMethods->xShmMap(Real(f), page, size, extend, out);
      };
      m.xShmLock = [](sqlite3_file* f, int offset, int count, int flags) {
        return Real(f)->pMethods->xShmLock(Real(f), offset, count, flags);
      };
      m.xShmBarrier = [](sqlite3_file* f) { Real(f)->pMethods->xShmBarrier(Real(f)); };
      m.xShmUnmap = [](sqlite3_file* f, int remove) {
        return Real(f)->pMethods->xShmUnmap(Real(f), remove);
      };
      return m;
    }();
    return &methods;
  }
};

CrashDisk::CrashDisk(uint64_t seed) : random_(seed) {
  static std::atomic<int> made = 0;
  name_ = absl::StrCat("crash-disk-", ++made);
  vfs_ = new sqlite3_vfs(*CrashVfs::Machine());  // whatever is not replaced is the machine's
  vfs_->szOsFile += static_cast<int>(sizeof(CrashVfs::File));
  vfs_->zName = name_.c_str();
  vfs_->pNext = nullptr;
  vfs_->pAppData = this;
  vfs_->xOpen = CrashVfs::Open;
  vfs_->xDelete = CrashVfs::Delete;
  // These two look at pAppData in the machine's.
  vfs_->xAccess = [](sqlite3_vfs*, const char* path, int flags, int* out) {
    return CrashVfs::Machine()->xAccess(CrashVfs::Machine(), path, flags, out);
  };
  vfs_->xFullPathname = [](sqlite3_vfs*, const char* path, int size, char* out) {
    return CrashVfs::Machine()->xFullPathname(CrashVfs::Machine(), path, size, out);
  };
  CHECK_EQ(sqlite3_vfs_register(vfs_, /*makeDflt=*/0), SQLITE_OK);
}

CrashDisk::~CrashDisk() {
  sqlite3_vfs_unregister(vfs_);
  delete vfs_;
}

void CrashDisk::Plan(Fault fault, int64_t point) {
  points_ = 0;
  reached_ = false;
  point_ = point;
  fault_ = fault;
}

CrashDisk::Verdict CrashDisk::Meet(bool is_write, int* code) {
  const int64_t here = points_++;
  const Fault fault = fault_;
  if (fault == Fault::kNone || here < point_) return Verdict::kDo;
  const bool first = !reached_.exchange(true);
  *code = is_write ? SQLITE_IOERR_WRITE : SQLITE_IOERR_FSYNC;
  switch (fault) {
    case Fault::kPowerCut:
      return first && is_write ? Verdict::kPart : Verdict::kRefuse;
    case Fault::kFailOnce:
      if (first) return is_write ? Verdict::kPart : Verdict::kRefuse;
      break;
    case Fault::kFull:
      if (is_write) {
        *code = SQLITE_FULL;
        return Verdict::kPart;
      }
      break;
    case Fault::kNoSync:
      if (!is_write) return Verdict::kRefuse;
      break;
    case Fault::kNone:
      break;
  }
  *code = SQLITE_OK;
  return Verdict::kDo;
}

// A sync: all of it reaches the disk; or, where it fails, what chance lets through.
void CrashDisk::Keep(Image* image, bool all) {
  for (const Change& change : image->unsynced) {
    if (all) {
      Apply(change, &image->synced);
    } else if (Chance()) {
      Apply(Torn(change), &image->synced);
    }
  }
  image->exists = image->exists || all;
  image->unsynced.clear();
}

void CrashDisk::Apply(const Change& change, std::string* content) {
  if (change.truncate_to >= 0) {
    content->resize(change.truncate_to);
    return;
  }
  const size_t end = change.offset + change.bytes.size();
  if (content->size() < end) content->resize(end);
  content->replace(change.offset, change.bytes.size(), change.bytes);
}

// Some of its sectors, from one to another.
CrashDisk::Change CrashDisk::Torn(const Change& change) {
  const int64_t size = static_cast<int64_t>(change.bytes.size());
  if (change.truncate_to >= 0 || size <= kSector || Chance()) return change;
  const int64_t sectors = (size + kSector - 1) / kSector;
  const int64_t first = static_cast<int64_t>(random_() % sectors);
  const int64_t last = first + 1 + static_cast<int64_t>(random_() % (sectors - first));
  return {change.offset + first * kSector,
          change.bytes.substr(first * kSector, (last - first) * kSector)};
}

void CrashDisk::CutPower() {
  fault_ = Fault::kNone;
  for (auto& [path, image] : images_) {
    Keep(&image, /*all=*/false);
    const bool gone = !image.exists || (image.removed && Chance());
    if (gone) image = {};
    std::remove(path.c_str());
    if (!gone) {
      std::ofstream(path, std::ios::binary) << image.synced;
    }
    if (!absl::EndsWith(path, "-wal")) std::remove(absl::StrCat(path, "-shm").c_str());
  }
}

}  // namespace tuppence
