package report

import (
	"bytes"
	"embed"
	"html/template"
	"io"

	"slipstream/bench"
)

// pageFiles are the page's template and its style. They never change.
//
//go:embed page.html parts.html page.css
var pageFiles embed.FS

// HTML writes the report as one page that needs nothing else: no script, no font, no picture from anywhere. It follows
// the reader's choice of light or dark, fits a phone, and prints on A4.
func HTML(w io.Writer, r *bench.Report) error {
	t, err := template.ParseFS(pageFiles, "*.html", "*.css")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, "page.html", newPage(cleaned(r))); err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}
