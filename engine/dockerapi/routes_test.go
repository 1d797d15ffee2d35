package dockerapi_test

import (
	"strconv"
	"strings"
	"testing"
)

// everyRoute is each route of the newest Engine API and of the reference's
// routers, what it answers of things that there are not, and the body that is sent.
const everyRoute = `
GET /_ping 200
HEAD /_ping 200
GET /version 200
GET /info 200
GET /events?since=1&until=2 200
GET /system/df 200
POST /auth 500 {"serveraddress":"127.0.0.1:1"}
OPTIONS /containers/json 200
POST /session 501
POST /grpc 501

GET /containers/json 200
POST /containers/create 400
POST /containers/prune 200
GET /containers/nosuch/json 404
GET /containers/nosuch/top 404
GET /containers/nosuch/logs?stdout=1 404
GET /containers/nosuch/changes 404
GET /containers/nosuch/export 404
GET /containers/nosuch/stats?stream=0 404
POST /containers/nosuch/resize?h=1&w=1 404
POST /containers/nosuch/start 404
POST /containers/nosuch/stop 404
POST /containers/nosuch/restart 404
POST /containers/nosuch/kill 404
POST /containers/nosuch/update 404
POST /containers/nosuch/rename?name=x 404
POST /containers/nosuch/pause 404
POST /containers/nosuch/unpause 404
POST /containers/nosuch/attach 404
GET /containers/nosuch/attach/ws 404
POST /containers/nosuch/wait 404
DELETE /containers/nosuch 404
HEAD /containers/nosuch/archive?path=/ 404
GET /containers/nosuch/archive?path=/ 404
PUT /containers/nosuch/archive?path=/ 404
GET /containers/nosuch/checkpoints 501
POST /containers/nosuch/checkpoints 501
DELETE /containers/nosuch/checkpoints/c 501
POST /containers/nosuch/exec 404
POST /exec/nosuch/start 404
POST /exec/nosuch/resize?h=1&w=1 404
GET /exec/nosuch/json 404
POST /commit?container=nosuch 404

GET /images/json 200
POST /images/create?fromImage=127.0.0.1:1/x&tag=1 500
POST /images/load 400
GET /images/get?names=nosuch 404
POST /images/prune 200
GET /images/search?term=127.0.0.1:1/x 500
GET /images/nosuch/json 404
GET /images/nosuch/attestations 501
GET /images/nosuch/history 404
GET /images/nosuch/get 404
POST /images/nosuch/push 200
POST /images/nosuch/tag?repo=x 404
DELETE /images/nosuch 404
GET /distribution/nosuch:tag:x/json 400
POST /build 400
POST /build/prune 200
POST /build/cancel?id=nosuch 200

GET /networks 200
GET /networks/ 200
POST /networks/create 400
POST /networks/prune 200
GET /networks/nosuch 404
DELETE /networks/nosuch 404
POST /networks/nosuch/connect 404
POST /networks/nosuch/disconnect 404

GET /volumes 200
POST /volumes/create 201
POST /volumes/prune 200
GET /volumes/nosuch 404
PUT /volumes/nosuch?version=1 503
DELETE /volumes/nosuch 404

GET /plugins 200
GET /plugins/privileges?remote=x 501
POST /plugins/pull?remote=x 501
POST /plugins/create?name=x 501
GET /plugins/nosuch/json 404
DELETE /plugins/nosuch 404
POST /plugins/nosuch/enable 404
POST /plugins/nosuch/disable 404
POST /plugins/nosuch/upgrade 404
POST /plugins/nosuch/push 404
POST /plugins/nosuch/set 404

GET /swarm 503
POST /swarm/init 503
POST /swarm/join 503
POST /swarm/leave 503
POST /swarm/update 503
GET /swarm/unlockkey 503
POST /swarm/unlock 503
GET /nodes 503
GET /nodes/x 503
DELETE /nodes/x 503
POST /nodes/x/update 503
GET /services 503
POST /services/create 503
GET /services/x 503
DELETE /services/x 503
POST /services/x/update 503
GET /services/x/logs 503
GET /tasks 503
GET /tasks/x 503
GET /tasks/x/logs 503
GET /secrets 503
POST /secrets/create 503
GET /secrets/x 503
DELETE /secrets/x 503
POST /secrets/x/update 503
GET /configs 503
POST /configs/create 503
GET /configs/x 503
DELETE /configs/x 503
POST /configs/x/update 503
`

func TestEveryRouteIsThere(t *testing.T) {
	d := newDaemon(t)
	for line := range strings.Lines(everyRoute) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		for _, version := range []string{"", "/v1.24", "/v1.41", "/v1.56"} {
			body := strings.Join(fields[3:], " ")
			if body == "" && fields[0] == "POST" && !strings.HasPrefix(fields[1], "/build") && !strings.HasPrefix(fields[1], "/images") {
				body = "{}"
			}
			status, _, text := d.request(fields[0], version+fields[1], body)
			if want := fields[2]; strings.Contains(text, "page not found") || want != strconv.Itoa(status) {
				t.Errorf("%s %s%s: %d, want %s: %s", fields[0], version, fields[1], status, want, text)
			}
		}
	}
}
