package apiserver

import (
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// authenticate finds out who makes a request: by client certificate, by
// ServiceAccount token, or nobody. A token that is no good is refused, not
// taken for nobody.
func (s *Server) authenticate(r *http.Request) (identity, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return certIdentity(r.TLS.PeerCertificates[0]), nil
	}
	token := bearer(r)
	if token == "" {
		return anonymous(), nil
	}
	id, err := s.tokenIdentity(r.Context(), token, "")
	if err != nil {
		s.log.Debug("token refused", "err", err)
		return identity{}, apierrors.NewUnauthorized("Unauthorized")
	}
	return id, nil
}

// bearer is the token in the Authorization header, or in the subprotocol that
// browsers use for websockets.
func bearer(r *http.Request) string {
	scheme, token, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(token)
	}
	return ""
}
