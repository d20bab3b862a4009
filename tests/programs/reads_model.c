/* A C program over the library: proves that header and library agree on names, types and layouts. */
#include <inttypes.h>
#include <stdio.h>

#include "vector_boot.h"

_Static_assert(sizeof(NeuralTensorInfo) == 152, "the documented layout");
_Static_assert(offsetof(NeuralTensorInfo, name) == 80, "the documented layout");

static int failed(void)
{
    char message[4096];
    int64_t needed = neural_last_error(message, sizeof message);
    fprintf(stderr, "%.*s\n", (int)needed, message);
    return 1;
}

int main(int argc, char **argv)
{
    uint64_t model;
    if (argc != 2 || neural_abi_version() >> 16 != NEURAL_ABI_VERSION >> 16)
        return 2;
    if (neural_open(argv[1], &model) != NEURAL_OK)
        return failed();
    const char *names[] = {"plain", "blocks"};
    for (int i = 0; i < 2; i++) {
        NeuralTensorInfo info;
        const void *data;
        size_t bytes;
        float first;
        int64_t index = neural_tensor_find(model, names[i]);
        if (index < 0 || index >= neural_tensor_count(model) ||
            neural_tensor_info(model, (uint64_t)index, &info, sizeof info) != NEURAL_OK ||
            neural_tensor_view(model, (uint64_t)index, &data, &bytes) != NEURAL_OK || bytes != info.bytes ||
            neural_dequantize(model, (uint64_t)index, &first, 1) != (int64_t)info.values)
            return failed();
        printf("%s %s %" PRIu64 " values, first %g\n", info.name, info.type_name, info.values, (double)first);
    }
    char value[64];
    int64_t needed = neural_metadata(model, "general.architecture", value, sizeof value);
    if (needed < 0 || needed > (int64_t)sizeof value)
        return failed();
    printf("%.*s\n", (int)needed, value);
    if (neural_close(model) != NEURAL_OK || neural_close(model) != NEURAL_HANDLE)
        return 3;
    return 0;
}
