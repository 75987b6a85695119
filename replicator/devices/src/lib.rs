//! Device models of the guest: virtio-mmio transport, network, block, serial port, keyboard controller.
