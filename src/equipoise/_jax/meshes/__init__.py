"""Programs on meshes of devices: what they send, on meshes of any size, and on one device."""
