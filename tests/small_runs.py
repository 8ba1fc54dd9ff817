"""The sizes of the small net that several tests train, and its FLOPs by hand."""

INPUTS, HIDDEN, CLASSES, BATCH = 12, 16, 4, 8

# Per example: forward 2*(12*16 + 16*4), the same again for the weights' gradients, and 2*16*4 for
# the input gradient of the second layer; nobody needs that of the first.
FLOPS_PER_EXAMPLE = 2 * (2 * (INPUTS * HIDDEN + HIDDEN * CLASSES) + HIDDEN * CLASSES)
