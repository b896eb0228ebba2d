/* A management library with the C interface of NVML's reference: two devices, told by tests what to answer. */
#include <string.h>
#include <unistd.h>

typedef struct device *nvml_device;

typedef struct {
    unsigned int isCecAttestationReportPresent;
    unsigned int attestationReportSize;
    unsigned int cecAttestationReportSize;
    unsigned char nonce[0x20];
    unsigned char attestationReport[0x2000];
    unsigned char cecAttestationReport[0x1000];
} attestation_report;

typedef struct {
    unsigned int certChainSize;
    unsigned int attestationCertChainSize;
    unsigned char certChain[0x1000];
    unsigned char attestationCertChain[0x1400];
} gpu_certificate;

typedef struct {
    unsigned int environment, ccFeature, devToolsMode;
} system_state;

typedef struct {
    unsigned int version, environment, ccFeature, devToolsMode, multiGpuMode;
} system_settings;

typedef struct {
    unsigned long long total, free, used;
} memory;

struct device {
    unsigned int index;
};
static struct device devices[2] = {{0}, {1}};

/* What tests set. A provider signs: it gets device, nonce and room, and returns the size it claims. */
static unsigned int (*provider)(unsigned int, int, const unsigned char *, unsigned char *);
unsigned int fake_count = 2, fake_feature = 1, fake_devtools = 0, fake_multi = 0;
int fake_result = 0, fake_settings_result = 0, fake_state_result = 0, fake_memory_result = 0, fake_silent = 0;
int fake_open_sessions = 0;

void fake_provide(unsigned int (*given)(unsigned int, int, const unsigned char *, unsigned char *)) {
    provider = given;
}

static nvml_device checked(nvml_device device) {
    return device == &devices[0] || device == &devices[1] ? device : 0;
}

int nvmlInit_v2(void) {
    fake_open_sessions++;
    return 0;
}

int nvmlShutdown(void) {
    fake_open_sessions--;
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = fake_count;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvml_device *device) {
    if (index > 1) return 2;
    *device = &devices[index];
    return 0;
}

int nvmlDeviceGetName(nvml_device device, char *name, unsigned int length) {
    if (!checked(device) || length < 96) return 7;
    strcpy(name, device->index ? "NVIDIA H100 80GB HBM3" : "NVIDIA H200");
    return 0;
}

int nvmlDeviceGetUUID(nvml_device device, char *uuid, unsigned int length) {
    if (!checked(device) || length < 96) return 7;
    strcpy(uuid, device->index ? "GPU-1" : "GPU-0");
    return 0;
}

int nvmlDeviceGetMemoryInfo(nvml_device device, memory *info) {
    if (fake_memory_result) return fake_memory_result;
    info->total = 141000000000ULL;
    info->free = 1;
    info->used = 2;
    return checked(device) ? 0 : 2;
}

int nvmlSystemGetConfComputeState(system_state *state) {
    if (fake_state_result) return fake_state_result;
    state->environment = 2;
    state->ccFeature = fake_feature;
    state->devToolsMode = fake_devtools;
    return 0;
}

#ifndef WITHOUT_SETTINGS
int nvmlSystemGetConfComputeSettings(system_settings *settings) {
    if (fake_settings_result) return fake_settings_result;
    if (settings->version != (sizeof(system_settings) | 1u << 24)) return 25; /* argument version mismatch */
    settings->environment = 2;
    settings->ccFeature = fake_feature;
    settings->devToolsMode = fake_devtools;
    settings->multiGpuMode = fake_multi;
    return 0;
}
#endif

int nvmlDeviceGetConfComputeGpuAttestationReport(nvml_device device, attestation_report *report) {
    if (fake_silent) pause();
    if (fake_result) return fake_result;
    if (!checked(device)) return 2;
    report->isCecAttestationReportPresent = 1;
    report->cecAttestationReportSize = sizeof report->cecAttestationReport;
    memset(report->cecAttestationReport, 0xCE, sizeof report->cecAttestationReport);
    report->attestationReportSize = provider(device->index, 1, report->nonce, report->attestationReport);
    return 0;
}

int nvmlDeviceGetConfComputeGpuCertificate(nvml_device device, gpu_certificate *found) {
    if (fake_result) return fake_result;
    if (!checked(device)) return 2;
    found->certChainSize = sizeof found->certChain;
    memset(found->certChain, 0xCC, sizeof found->certChain);
    found->attestationCertChainSize = provider(device->index, 0, 0, found->attestationCertChain);
    return 0;
}
