# The reactor modules: lapidary.wasm (the engine) and kernel_tests.wasm (the kernel tier, never shipped).

# The engine drives the GPU and touches little data itself: size, which every visitor downloads, comes first.
target_compile_options(engine PRIVATE -Os -ffunction-sections -fdata-sections)
if(TARGET reference)
  # The oracle walks whole models: fast loops matter.
  target_compile_options(reference PRIVATE -O2)
endif()

function(lapidary_reactor name)
  add_executable(${name} ${ARGN})
  set_target_properties(${name} PROPERTIES SUFFIX .wasm)
  target_compile_options(${name} PRIVATE -Os)
  target_link_options(${name} PRIVATE -O2 -Wl,--gc-sections -Wl,--strip-debug -Wl,-z,stack-size=262144
                      -Wl,--max-memory=1073741824)
endfunction()

if(EXISTS ${CMAKE_SOURCE_DIR}/engine/exports.cpp)
  lapidary_reactor(lapidary engine/exports.cpp engine/exports_finetune.cpp engine/exports_media.cpp)
  target_link_libraries(lapidary PRIVATE engine)
endif()

# The kernel tier: every kernel family against the reference, run under Node (tests/kernels/run.mjs).
file(GLOB KERNEL_TESTS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/kernels/*.cpp)
if(KERNEL_TESTS AND TARGET reference)
  lapidary_reactor(kernel_tests ${KERNEL_TESTS})
  set_target_properties(kernel_tests PROPERTIES UNITY_BUILD OFF)
  target_link_libraries(kernel_tests PRIVATE reference engine)
  target_precompile_headers(kernel_tests PRIVATE tests/kernels/kernel_test.h engine/kernels/selftest.h
                            engine/model/decoder.h <algorithm> <string> <vector>)
endif()
