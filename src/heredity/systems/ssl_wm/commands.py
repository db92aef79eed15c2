"""What an owner does with SSL-WM on an encoder of their own: `heredity ssl-wm keygen | embed | verify`."""
