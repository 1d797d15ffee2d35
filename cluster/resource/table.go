package resource

// Kinds returns the table. The order is that of discovery, and of preference
// where two groups share a resource name.
func Kinds() []*Kind {
	return []*Kind{
		configMaps(),
		events(),
		namespaces(),
		nodes(),
		pods(),
		secrets(),
		serviceAccounts(),
		services(),
		deployments(),
		replicaSets(),
		leases(),
		endpointSlices(),
		groupEvents(),
		ingresses(),
	}
}
