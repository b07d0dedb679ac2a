# The reactor modules: lapidary.wasm (the engine) and kernel_tests.wasm (the kernel tier, never shipped).
add_compile_options(-Oz -flto -ffunction-sections -fdata-sections)
target_compile_options(engine PRIVATE -O2 -ffunction-sections -fdata-sections)

function(lapidary_reactor name)
  add_executable(${name} ${ARGN})
  target_compile_options(${name} PRIVATE -O2)
  target_link_options(${name} PRIVATE -O2 -Wl,--gc-sections -Wl,--strip-debug -Wl,-z,stack-size=262144
                      -Wl,--max-memory=268435456)
endfunction()

lapidary_reactor(lapidary engine/exports.cpp)
target_link_libraries(lapidary PRIVATE engine)
