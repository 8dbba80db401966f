"""The command lines; a package, because Detectron2 main installs another one of this name."""
