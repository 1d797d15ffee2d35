package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// waitForRevision bounds how long a read waits for the cache.
const waitForRevision = 3 * time.Second

// fresh waits until the cache holds all acknowledged writes, by anyone.
func (s *Server) fresh(ctx context.Context) error {
	rev, err := s.store.Revision(ctx)
	if err != nil {
		return err
	}
	return s.reach(ctx, rev)
}

func (s *Server) reach(ctx context.Context, rev int64) error {
	if s.feed.progress.now() >= rev {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, waitForRevision)
	defer cancel()
	if err := s.store.RequestProgress(bounded); err != nil {
		return err
	}
	if err := s.feed.progress.wait(bounded, rev); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return tooLarge(rev, s.feed.progress.now())
	}
	return nil
}

// tooLarge is the answer to a revision that the server does not have (yet).
func tooLarge(rev, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", rev, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type:    metav1.CauseTypeResourceVersionTooLarge,
		Message: "Too large resource version",
	}}
	return err
}

// parseRev reads a resourceVersion parameter; 0 stands for none as well.
func parseRev(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	rev, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q: %v", s, err))
	}
	return int64(rev), nil
}

// atLeast waits for what a resourceVersion parameter promises: the newest for
// none, anything for 0, at least that revision otherwise.
func (s *Server) atLeast(ctx context.Context, param string) error {
	rev, err := parseRev(param)
	switch {
	case err != nil:
		return err
	case param == "":
		return s.fresh(ctx)
	}
	return s.reach(ctx, rev)
}

func (s *Server) serveGet(req *request) error {
	if err := s.atLeast(req.r.Context(), req.query.Get("resourceVersion")); err != nil {
		return err
	}
	e := req.kind.cache.get(req.key(req.path.name))
	if e == nil {
		return apierrors.NewNotFound(req.kind.GR(), req.path.name)
	}
	return req.send(result{code: http.StatusOK, entry: e})
}
