/* A switch query library with the C interface of NVIDIA's attestation header for NSCQ 2.0: two switches. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef int8_t code_t;
typedef struct {
    uint8_t bytes[16];
} uuid_t_;
typedef struct {
    char data[64];
} label_t;
typedef struct {
    uint32_t report_size;
    uint8_t report[0x2000];
} report_t;
typedef struct {
    uint8_t cert_chain[0x1400];
    uint32_t cert_chain_size;
} certificate_t;
typedef struct session {
    int open;
    int has_input;
    uint8_t input[0x20];
} *session_t;
typedef struct {
    code_t rc;
    session_t session;
} session_result;
typedef void (*fn_t)(void);

static struct session only;
static const uuid_t_ uuids[2] = {{{1}}, {{2}}};
static unsigned int (*provider)(unsigned int, int, const unsigned char *, unsigned char *);

int fake_session_code = 0, fake_code = 0, fake_callback_code = 0, fake_silent = 0, fake_count = 2, fake_calls = 1;
int fake_no_session = 0, fake_mode = 3, fake_bad_label = 0, fake_open_sessions = 0, fake_input_code = 0;

void fake_provide(unsigned int (*given)(unsigned int, int, const unsigned char *, unsigned char *)) {
    provider = given;
}

code_t nscq_uuid_to_label(const uuid_t_ *uuid, label_t *label, uint32_t flags) {
    if (flags) return -5;
    if (fake_bad_label) {
        memset(label->data, '/', sizeof label->data); /* not ended by a zero, and a path of its own */
        return 0;
    }
    snprintf(label->data, sizeof label->data, "SWX-%02X", uuid->bytes[0]);
    return 0;
}

session_result nscq_session_create(uint32_t flags) {
    session_result result = {(code_t)fake_session_code, fake_no_session || fake_session_code < 0 ? 0 : &only};
    only.open = flags == 1;
    only.has_input = 0;
    if (result.session) fake_open_sessions++;
    return result;
}

void nscq_session_destroy(session_t session) {
    if (session == &only) fake_open_sessions--;
    only.open = 0;
}

code_t nscq_session_set_input(session_t session, uint32_t flags, void *input, uint32_t size) {
    if (session != &only || flags || size != sizeof only.input) return -5;
    memcpy(only.input, input, size);
    only.has_input = 1;
    return (code_t)fake_input_code;
}

static void answer(int index, const char *leaf, fn_t callback, void *data) {
    code_t code = (code_t)fake_callback_code;
    if (!strcmp(leaf, "pcie_mode")) {
        ((void (*)(const uuid_t_ *, code_t, int8_t, void *))callback)(&uuids[index], code, (int8_t)fake_mode, data);
    } else if (!strcmp(leaf, "certificate")) {
        certificate_t found;
        memset(&found, 0xCC, sizeof found);
        found.cert_chain_size = provider(index, 0, 0, found.cert_chain);
        ((void (*)(const uuid_t_ *, code_t, certificate_t, void *))callback)(&uuids[index], code, found, data);
    } else if (!strcmp(leaf, "attestation_report") && only.has_input) {
        report_t found;
        memset(&found, 0xAA, sizeof found);
        found.report_size = provider(index, 1, only.input, found.report);
        ((void (*)(const uuid_t_ *, code_t, report_t, void *))callback)(&uuids[index], code, found, data);
    }
}

code_t nscq_session_path_observe(session_t session, const char *path, fn_t callback, void *data, uint32_t flags) {
    unsigned int number;
    char leaf[64] = "";
    if (fake_silent) pause();
    if (session != &only || !only.open || flags) return -5;
    if (!strcmp(path, "/drv/nvswitch/{device}/uuid")) {
        for (int i = 0; i < fake_count; i++)
            ((void (*)(const uuid_t_ *, code_t, const uuid_t_ *, void *))callback)(&uuids[i & 1], 0, &uuids[i & 1], data);
        return 0;
    }
    if (fake_code) return (code_t)fake_code;
    if (sscanf(path, "/SWX-%x/config/%63s", &number, leaf) != 2 || number < 1 || number > 2) return -2;
    for (int i = 0; i < fake_calls; i++) answer((int)number - 1, leaf, callback, data);
    return 0;
}
