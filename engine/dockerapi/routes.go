package dockerapi

import "net/http"

const (
	get    = http.MethodGet
	post   = http.MethodPost
	put    = http.MethodPut
	head   = http.MethodHead
	remove = http.MethodDelete
)

// routes is the whole API.
var routes = []route{
	{get, "/_ping", "", (*call).ping},
	{get, "/version", "", (*call).showVersion},
	{get, "/info", "", (*call).info},
	{get, "/events", "since until filters", (*call).events},
	{get, "/system/df", "type verbose", (*call).diskUsage},
	{post, "/auth", "", (*call).login},
	{"", "/session", "*", refuse("BuildKit")},
	{"", "/grpc", "*", refuse("BuildKit")},

	{get, "/containers/json", "all limit size filters since before", (*call).listContainers},
	{get, "/containers/ps", "all limit size filters since before", (*call).listContainers},
	{post, "/containers/create", "name platform", (*call).createContainer},
	{post, "/containers/prune", "filters", (*call).pruneContainers},
	{get, "/containers/{}/json", "size", (*call).inspectContainer},
	{get, "/containers/{}/top", "ps_args", (*call).top},
	{get, "/containers/{}/logs", "follow stdout stderr since until timestamps tail details", (*call).logs},
	{get, "/containers/{}/changes", "", (*call).changes},
	{get, "/containers/{}/export", "", (*call).export},
	{get, "/containers/{}/stats", "stream one-shot", (*call).stats},
	{post, "/containers/{}/resize", "h w", (*call).resize},
	{post, "/containers/{}/start", "detachKeys checkpoint checkpoint-dir", (*call).start},
	{post, "/containers/{}/stop", "t signal", (*call).stop},
	{post, "/containers/{}/restart", "t signal", (*call).restart},
	{post, "/containers/{}/kill", "signal", (*call).kill},
	{post, "/containers/{}/update", "", (*call).update},
	{post, "/containers/{}/rename", "name", (*call).rename},
	{post, "/containers/{}/pause", "", (*call).pause},
	{post, "/containers/{}/unpause", "", (*call).unpause},
	{post, "/containers/{}/attach", "detachKeys logs stream stdin stdout stderr", (*call).attach},
	{get, "/containers/{}/attach/ws", "*", refuse("attaching by WebSocket")},
	{post, "/containers/{}/wait", "condition", (*call).wait},
	{remove, "/containers/{}", "v force link", (*call).removeContainer},
	{head, "/containers/{}/archive", "path", (*call).statArchive},
	{get, "/containers/{}/archive", "path", (*call).getArchive},
	{put, "/containers/{}/archive", "path noOverwriteDirNonDir copyUIDGID", (*call).putArchive},
	{"", "/containers/{}/checkpoints", "*", refuse("checkpoints")},
	{"", "/containers/{}/checkpoints/{}", "*", refuse("checkpoints")},
	{post, "/containers/{}/exec", "", (*call).createExec},
	{post, "/exec/{}/start", "", (*call).startExec},
	{post, "/exec/{}/resize", "h w", (*call).resizeExec},
	{get, "/exec/{}/json", "", (*call).inspectExec},
	{post, "/commit", "container repo tag comment author pause changes", (*call).commit},

	{get, "/images/json", "all filters shared-size digests manifests identity", (*call).listImages},
	{post, "/images/create", "fromImage fromSrc repo tag message changes platform", (*call).createImage},
	{post, "/images/load", "quiet platform", (*call).loadImages},
	{get, "/images/get", "names platform", (*call).saveImages},
	{post, "/images/prune", "filters", (*call).pruneImages},
	{get, "/images/search", "term limit filters", (*call).search},
	{get, "/images/{+}/json", "manifests platform", (*call).inspectImage},
	{get, "/images/{+}/history", "platform", (*call).history},
	{get, "/images/{+}/get", "platform", (*call).saveImages},
	{post, "/images/{+}/push", "tag platform", (*call).pushImage},
	{post, "/images/{+}/tag", "repo tag", (*call).tag},
	{remove, "/images/{+}", "force noprune platforms", (*call).removeImage},
	{get, "/distribution/{+}/json", "", (*call).inspectDistribution},
	{post, "/build", buildQuery, (*call).build},
	{post, "/build/prune", "all filters keep-storage reserved-space max-used-space min-free-space", (*call).pruneBuilds},
	{post, "/build/cancel", "*", refuse("cancelling a build by its ID")},

	{get, "/networks", "filters", (*call).listNetworks},
	{post, "/networks/create", "", (*call).createNetwork},
	{post, "/networks/prune", "filters", (*call).pruneNetworks},
	{get, "/networks/{}", "verbose scope", (*call).inspectNetwork},
	{remove, "/networks/{}", "", (*call).removeNetwork},
	{post, "/networks/{}/connect", "", (*call).connectNetwork},
	{post, "/networks/{}/disconnect", "", (*call).disconnectNetwork},

	{get, "/volumes", "filters", (*call).listVolumes},
	{post, "/volumes/create", "", (*call).createVolume},
	{post, "/volumes/prune", "filters", (*call).pruneVolumes},
	{get, "/volumes/{}", "", (*call).inspectVolume},
	{put, "/volumes/{}", "*", notInSwarm},
	{remove, "/volumes/{}", "force", (*call).removeVolume},

	{get, "/plugins", "filters", (*call).listPlugins},
	{"", "/plugins/{+}", "*", refuse("plugins")},

	{"", "/swarm", "*", notInSwarm},
	{"", "/swarm/{+}", "*", notInSwarm},
	{"", "/nodes", "*", notInSwarm},
	{"", "/nodes/{+}", "*", notInSwarm},
	{"", "/services", "*", notInSwarm},
	{"", "/services/{+}", "*", notInSwarm},
	{"", "/tasks", "*", notInSwarm},
	{"", "/tasks/{+}", "*", notInSwarm},
	{"", "/secrets", "*", notInSwarm},
	{"", "/secrets/{+}", "*", notInSwarm},
	{"", "/configs", "*", notInSwarm},
	{"", "/configs/{+}", "*", notInSwarm},
}
