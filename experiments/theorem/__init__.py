"""The gradient-alignment theorem of arXiv 2507.14805 in numbers, and where it ends."""
