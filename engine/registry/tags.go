package registry

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"gantry/internal/problem"
)

// maxPages bounds how many pages of a listing are read.
const maxPages = 1000

// tags lists all tags of the repository (spec, "Listing Tags").
func (r *repository) tags(ctx context.Context) ([]string, error) {
	var all []string
	at := r.url("tags", "list")
	for range maxPages {
		resp, err := r.do(ctx, request{method: http.MethodGet, url: at, scopes: []string{r.scope("pull")}})
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			return nil, refusal(resp)
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&page)
		_ = resp.Body.Close() // it was read
		if err != nil {
			return nil, problem.New(problem.Invalid, "list of tags: %w", err)
		}
		all = append(all, page.Tags...)
		if at = nextLink(at, resp.Header.Values("Link")); at == nil {
			return all, nil
		}
	}
	return nil, problem.New(problem.Invalid, "list of tags has more than %d pages", maxPages)
}
