# Define onnxruntime::onnxruntime from the official release archive for this platform: headers and the CPU library.
include(FetchContent)

string(TOLOWER "${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR}" here)
set(archives # system-processor, as a regular expression, and what the archive of that platform is called
    "linux-(x86_64|amd64)" linux-x64 tgz
    "linux-(aarch64|arm64)" linux-aarch64 tgz
    "darwin-(aarch64|arm64)" osx-arm64 tgz
    "darwin-x86_64" osx-x86_64 tgz
    "windows-(x86_64|amd64)" win-x64 zip
    "windows-(aarch64|arm64)" win-arm64 zip)
set(archive "")
while(archives)
  list(POP_FRONT archives pattern platform ending)
  if(here MATCHES "^${pattern}$")
    set(archive "onnxruntime-${platform}-${DDPM_ONNXRUNTIME_VERSION}.${ending}")
  endif()
endwhile()
if(NOT archive)
  message(FATAL_ERROR "ONNX Runtime: no release archive. got ${here}, expected Linux, macOS or Windows on x86-64 or "
                      "ARM64. Do install ONNX Runtime and leave DDPM_FETCH_ONNXRUNTIME off.")
endif()

set(hash "")
if(DDPM_ONNXRUNTIME_SHA256)
  set(hash URL_HASH "SHA256=${DDPM_ONNXRUNTIME_SHA256}")
endif()
FetchContent_Declare(
  onnxruntime
  URL "https://github.com/microsoft/onnxruntime/releases/download/v${DDPM_ONNXRUNTIME_VERSION}/${archive}" ${hash})
FetchContent_MakeAvailable(onnxruntime)

set(library "${onnxruntime_SOURCE_DIR}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}onnxruntime${CMAKE_SHARED_LIBRARY_SUFFIX}")
add_library(onnxruntime::onnxruntime SHARED IMPORTED)
set_target_properties(
  onnxruntime::onnxruntime
  PROPERTIES IMPORTED_LOCATION "${library}"
             IMPORTED_IMPLIB "${onnxruntime_SOURCE_DIR}/lib/onnxruntime.lib" # Windows alone reads this
             INTERFACE_INCLUDE_DIRECTORIES "${onnxruntime_SOURCE_DIR}/include")
