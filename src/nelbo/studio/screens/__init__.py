"""The screens, one file each. A file that defines ``SCREEN`` adds a screen; nothing else has to change."""
