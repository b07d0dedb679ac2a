# Unit tests (one binary a room) and fuzzers, with the same clang and libc++ as the engine, under sanitizers.
enable_testing()
# Tests are compiled once and run for moments: what takes time is the compiler. Line tables suffice for stack traces.
add_compile_options(-g1 -O0 -fno-omit-frame-pointer)
add_compile_options(-stdlib=libc++)
# Static: the libc++.so beside it may be an older release than the headers (Debian keeps libc++1-19).
add_link_options(-stdlib=libc++ -static-libstdc++ -fuse-ld=lld)
target_compile_options(engine PUBLIC -stdlib=libc++ PRIVATE -O1)
target_compile_options(engine_on_gpu PRIVATE -O1)
if(LAPIDARY_SANITIZE)
  set(SANITIZE -fsanitize=address,undefined -fno-sanitize-recover=all)
  add_compile_options(${SANITIZE})
  add_link_options(${SANITIZE})
  target_compile_options(engine PUBLIC ${SANITIZE})
endif()
if(LAPIDARY_FUZZ)
  target_compile_options(engine PUBLIC -fsanitize=fuzzer-no-link)
endif()
if(TARGET reference)
  # The oracle walks whole models: fast loops matter, and its arithmetic is double.
  target_compile_options(reference PRIVATE -O2)
endif()

set(GTEST_HAS_RTTI OFF)
set(INSTALL_GTEST OFF)
add_subdirectory(/usr/src/googletest ${CMAKE_BINARY_DIR}/googletest EXCLUDE_FROM_ALL)
foreach(target gtest gtest_main)
  target_compile_options(${target} PRIVATE -Wno-error -DGTEST_HAS_EXCEPTIONS=0)
endforeach()

file(GLOB rooms RELATIVE ${CMAKE_SOURCE_DIR}/engine ${CMAKE_SOURCE_DIR}/engine/*)
foreach(room ${rooms})
  file(GLOB_RECURSE tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/engine/${room}/*_test.cpp)
  if(tests)
    add_executable(${room}_test ${tests})
    target_link_libraries(${room}_test PRIVATE gtest_main gtest engine)
    if(TARGET reference)
      target_link_libraries(${room}_test PRIVATE reference)
    endif()
    if(NOT FIRST_TEST)
      set(FIRST_TEST ${room}_test)
      target_precompile_headers(${room}_test PRIVATE engine/base/json.h engine/base/text.h <gtest/gtest.h> <algorithm>
                                <string> <vector>)
    else()
      target_precompile_headers(${room}_test REUSE_FROM ${FIRST_TEST})
    endif()
    # Fixture paths in tests are relative to the repository's root.
    target_compile_definitions(${room}_test PRIVATE LAPIDARY_ROOT="${CMAKE_SOURCE_DIR}")
    add_test(NAME ${room} COMMAND ${room}_test WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  endif()
endforeach()

if(LAPIDARY_FUZZ)
  file(GLOB_RECURSE fuzzers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/engine/*_fuzz.cpp)
  foreach(source ${fuzzers})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    # Debian's libFuzzer is built against libstdc++ (named by its file: -lstdc++ would turn into -lc++).
    target_link_libraries(${name} PRIVATE engine -l:libstdc++.so.6)
  endforeach()
endif()

# The tool that writes the benchmark's known answers. It walks models of gigabytes: its own build of what it needs,
# optimised and without sanitizers.
file(GLOB REFERENCE_LOGITS_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/engine/base/*.cpp
     ${CMAKE_SOURCE_DIR}/engine/gguf/*.cpp)
list(FILTER REFERENCE_LOGITS_SOURCES EXCLUDE REGEX "_(test|fuzz|wasm)\\.cpp$")
add_executable(reference_logits bench/reference_logits.cpp ${REFERENCE_LOGITS_SOURCES}
               engine/model/config.cpp engine/model/tensor_table.cpp engine/reference/model.cpp
               engine/reference/ops.cpp)
target_include_directories(reference_logits PRIVATE ${CMAKE_SOURCE_DIR})
target_include_directories(reference_logits SYSTEM PRIVATE ${CMAKE_BINARY_DIR}/third_party)
target_compile_definitions(reference_logits PRIVATE JSON_NOEXCEPTION JSON_NO_IO)
target_compile_options(reference_logits PRIVATE -O3 -fno-sanitize=all)
target_link_options(reference_logits PRIVATE -fno-sanitize=all)
