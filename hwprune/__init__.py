"""hwprune: compress a network to a budget that its exported engine meets, measured on the device."""
