"""Files out of sections: the page, its Markdown twin, LaTeX and CSV tables, figures. Escaped, offline, byte-stable."""
