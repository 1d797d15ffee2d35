package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// issuer is what a pod finds when it looks at who made its token.
	issuer          = "https://kubernetes.default.svc.cluster.local"
	accountPrefix   = "system:serviceaccount:"
	accountsGroup   = "system:serviceaccounts"
	defaultTokenTTL = 3600
	minTokenTTL     = 600
	maxTokenTTL     = 1 << 32
	// Clients that keep a mounted token past its time are still let in for a
	// year, as upstream does: old clients read it once.
	extendedTTL = 365 * 24 * 3600
)

var tokenRequestGVK = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// claims are the private claims of a bound token, in upstream's form.
type claims struct {
	Issuer     string     `json:"iss"`
	Subject    string     `json:"sub"`
	Audience   []string   `json:"aud"`
	Expires    int64      `json:"exp"`
	IssuedAt   int64      `json:"iat"`
	NotBefore  int64      `json:"nbf"`
	ID         string     `json:"jti"`
	Kubernetes kubeClaims `json:"kubernetes.io"`
}

type kubeClaims struct {
	Namespace string    `json:"namespace"`
	Account   claimRef  `json:"serviceaccount"`
	Pod       *claimRef `json:"pod,omitempty"`
	Secret    *claimRef `json:"secret,omitempty"`
	Node      *claimRef `json:"node,omitempty"`
	WarnAfter int64     `json:"warnafter,omitempty"`
}

type claimRef struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid,omitempty"`
}

// serveTokenRequest signs a token for a ServiceAccount.
func (s *Server) serveTokenRequest(req *request) error {
	if req.path.verb != "create" {
		return methodNotAllowed(req)
	}
	obj, err := s.decodeBody(req, tokenRequestGVK)
	if err != nil {
		return err
	}
	tr := obj.(*authenticationv1.TokenRequest)
	if err := s.fresh(req.r.Context()); err != nil {
		return err
	}
	sa := s.account(req.path.namespace, req.path.name)
	if sa == nil {
		return apierrors.NewNotFound(corev1.Resource("serviceaccounts"), req.path.name)
	}
	c, err := s.claimsFor(sa, tr)
	if err != nil {
		return err
	}
	if err := s.admitNodeToken(req, c); err != nil {
		return err
	}
	tr.Name, tr.Namespace, tr.CreationTimestamp = sa.Name, sa.Namespace, now()
	if !isDryRun(req.query["dryRun"]) {
		if tr.Status.Token, err = s.sign(c); err != nil {
			return apierrors.NewInternalError(err)
		}
	}
	tr.Status.ExpirationTimestamp = metav1.NewTime(time.Unix(c.IssuedAt+*tr.Spec.ExpirationSeconds, 0))
	return req.sendObject(http.StatusCreated, tr, tokenRequestGVK)
}

// claimsFor decides what the token says.
func (s *Server) claimsFor(sa *corev1.ServiceAccount, tr *authenticationv1.TokenRequest) (claims, error) {
	if tr.Spec.ExpirationSeconds == nil {
		ttl := int64(defaultTokenTTL)
		tr.Spec.ExpirationSeconds = &ttl
	}
	ttl := *tr.Spec.ExpirationSeconds
	path := field.NewPath("spec", "expirationSeconds")
	switch {
	case ttl < minTokenTTL:
		return claims{}, apierrors.NewInvalid(tokenRequestGVK.GroupKind(), "", field.ErrorList{field.Invalid(path, ttl, "may not specify a duration less than 10 minutes")})
	case ttl > maxTokenTTL:
		return claims{}, apierrors.NewInvalid(tokenRequestGVK.GroupKind(), "", field.ErrorList{field.Invalid(path, ttl, "may not specify a duration larger than 2^32 seconds")})
	}
	if len(tr.Spec.Audiences) == 0 {
		tr.Spec.Audiences = []string{issuer}
	}
	issued := time.Now().Unix()
	c := claims{
		Issuer: issuer, Subject: accountPrefix + sa.Namespace + ":" + sa.Name, Audience: tr.Spec.Audiences,
		IssuedAt: issued, NotBefore: issued, Expires: issued + ttl, ID: string(newUID()),
		Kubernetes: kubeClaims{Namespace: sa.Namespace, Account: claimRef{sa.Name, sa.UID}},
	}
	if ttl == tokenLifetime {
		c.Expires, c.Kubernetes.WarnAfter = issued+extendedTTL, issued+ttl
	}
	return c, s.bindClaims(&c, sa.Namespace, tr.Spec.BoundObjectRef)
}

// bindClaims ties the token to the life of an object.
func (s *Server) bindClaims(c *claims, namespace string, ref *authenticationv1.BoundObjectReference) error {
	if ref == nil {
		return nil
	}
	var k *kind
	prefix := ""
	switch ref.Kind {
	case "Pod":
		k, prefix = s.kinds.pods, namespace+"/"
	case "Secret":
		k, prefix = s.kinds.secrets, namespace+"/"
	case "Node":
		k = s.kinds.nodes
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to type %s", c.Kubernetes.Account.Name, ref.Kind))
	}
	e := k.cache.get(k.cache.prefix + prefix + ref.Name)
	if e == nil {
		return apierrors.NewNotFound(k.GR(), ref.Name)
	}
	if ref.UID != "" && ref.UID != e.meta.GetUID() {
		return apierrors.NewConflict(k.GR(), ref.Name, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	bound := &claimRef{e.meta.GetName(), e.meta.GetUID()}
	switch o := e.obj.(type) {
	case *corev1.Pod:
		if o.Spec.ServiceAccountName != c.Kubernetes.Account.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", c.Kubernetes.Account.Name))
		}
		c.Kubernetes.Pod = bound
		if n := s.kinds.nodes.cache.get(s.kinds.nodes.cache.prefix + o.Spec.NodeName); n != nil {
			c.Kubernetes.Node = &claimRef{o.Spec.NodeName, n.meta.GetUID()}
		}
	case *corev1.Secret:
		c.Kubernetes.Secret = bound
	case *corev1.Node:
		c.Kubernetes.Node = bound
	}
	return nil
}

// keyID names the signing key: the hash of its public half.
func keyID(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

func (s *Server) sign(c claims) (string, error) {
	key := s.keys.Load().account
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// tokenIdentity checks a ServiceAccount token: signature, time, audience (empty
// means the server's own), and that account and bound object still exist.
func (s *Server) tokenIdentity(ctx context.Context, token, audience string) (identity, error) {
	parsed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return identity{}, err
	}
	payload, err := parsed.Verify(&s.keys.Load().account.PublicKey)
	if err != nil {
		return identity{}, err
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return identity{}, err
	}
	if audience == "" {
		audience = issuer
	}
	at := time.Now().Unix()
	switch {
	case c.Issuer != issuer:
		return identity{}, errors.New("token of another issuer")
	case at > c.Expires || at < c.NotBefore-int64(clockSlack/time.Second):
		return identity{}, errors.New("token is expired or not valid yet")
	case !contains(c.Audience, audience):
		return identity{}, errors.New("token for another audience")
	}
	// What a token is bound to may have been made or removed just now.
	if err := s.fresh(ctx); err != nil {
		return identity{}, err
	}
	return s.accountIdentity(c)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (s *Server) accountIdentity(c claims) (identity, error) {
	kc := c.Kubernetes
	sa := s.account(kc.Namespace, kc.Account.Name)
	if sa == nil || sa.UID != kc.Account.UID {
		return identity{}, errors.New("the token's service account is gone")
	}
	id := identity{
		name:   accountPrefix + kc.Namespace + ":" + kc.Account.Name,
		uid:    string(sa.UID),
		groups: []string{accountsGroup, accountsGroup + ":" + kc.Namespace, groupAuthenticated},
		extra:  map[string][]string{"authentication.kubernetes.io/credential-id": {"JTI=" + c.ID}},
	}
	if kc.Pod != nil {
		e := s.kinds.pods.cache.get(s.kinds.pods.cache.prefix + kc.Namespace + "/" + kc.Pod.Name)
		if e == nil || e.meta.GetUID() != kc.Pod.UID {
			return identity{}, errors.New("the token's pod is gone")
		}
		id.extra["authentication.kubernetes.io/pod-name"] = []string{kc.Pod.Name}
		id.extra["authentication.kubernetes.io/pod-uid"] = []string{string(kc.Pod.UID)}
	}
	if kc.Node != nil {
		id.extra["authentication.kubernetes.io/node-name"] = []string{kc.Node.Name}
		id.extra["authentication.kubernetes.io/node-uid"] = []string{string(kc.Node.UID)}
	}
	if kc.Secret != nil {
		e := s.kinds.secrets.cache.get(s.kinds.secrets.cache.prefix + kc.Namespace + "/" + kc.Secret.Name)
		if e == nil || e.meta.GetUID() != kc.Secret.UID {
			return identity{}, errors.New("the token's secret is gone")
		}
	}
	return id, nil
}

// serveIssuer tells verifiers of tokens how to check them.
func (s *Server) serveIssuer(req *request) error {
	key := s.keys.Load().account
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	var doc any
	if strings.HasSuffix(req.r.URL.Path, "/jwks") {
		req.w.Header().Set("Content-Type", "application/jwk-set+json")
		doc = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}}}
	} else {
		req.w.Header().Set("Content-Type", "application/json")
		doc = map[string]any{
			"issuer": issuer, "jwks_uri": "https://" + reachable(s.Addr()) + "/openid/v1/jwks",
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{string(jose.ES256)},
		}
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	_, _ = req.w.Write(body) // the client is gone if this fails
	return nil
}
