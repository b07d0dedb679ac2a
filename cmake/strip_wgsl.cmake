# Writes the modules of FROM into TO without comments, indentation and blank lines, a quarter of them that every page
# would download. Directives (//#if, engine/kernels/compose.h) stay:
#   cmake -D FROM=engine/kernels/wgsl -D TO=build/wasm/wgsl -P cmake/strip_wgsl.cmake
file(GLOB modules RELATIVE ${FROM} ${FROM}/*.wgsl)
foreach(module ${modules})
  file(READ ${FROM}/${module} text)
  set(text "\n${text}\n")
  string(REGEX REPLACE "//([^#\n][^\n]*)?\n" "\n" text "${text}")
  string(REGEX REPLACE "[ \t\r]*\n[ \t\r\n]*" "\n" text "${text}")
  string(SUBSTRING "${text}" 1 -1 text)
  file(WRITE ${TO}/${module} "${text}")
endforeach()
