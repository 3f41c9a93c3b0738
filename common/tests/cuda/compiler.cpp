// Stands in for NVRTC: takes any source. What it gives is read by nobody but the stand-in of the driver.

#include <cstring>

static const char PTX[] = "stand-in";
static int program;

extern "C" {
int nvrtcCreateProgram(void** result, const char*, const char*, int, const char* const*, const char* const*) {
  *result = &program;
  return 0;
}
int nvrtcDestroyProgram(void**) { return 0; }
int nvrtcCompileProgram(void*, int, const char* const*) { return 0; }
int nvrtcGetPTXSize(void*, size_t* size) { *size = sizeof PTX; return 0; }
int nvrtcGetPTX(void*, char* text) { memcpy(text, PTX, sizeof PTX); return 0; }
int nvrtcGetProgramLogSize(void*, size_t* size) { *size = 1; return 0; }
int nvrtcGetProgramLog(void*, char* text) { *text = 0; return 0; }
}
