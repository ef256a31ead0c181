"""The box runtime: warden, guest, namespaces, overlay, limits, images and layers."""
