// The page at / of the admin port: service/page/*, put into the program by the build.
#pragma once

namespace tuppence {

extern const char kPageHtml[];
extern const char kPageCss[];
extern const char kPageJs[];

}  // namespace tuppence
