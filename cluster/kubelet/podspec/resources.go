package podspec

import (
	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kernel's limits for CPU shares and the quota period that is used.
const (
	minShares       = 2
	maxShares       = 262144
	quotaPeriodUsec = 100000
	minQuotaUsec    = 1000
)

// The OOM score adjustments of the two outer service classes.
const (
	guaranteedOOMScore = -997
	bestEffortOOMScore = 1000
)

// QOS returns pod's quality of service class.
func QOS(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	requests, limits := map[v1.ResourceName]int64{}, map[v1.ResourceName]int64{}
	guaranteed := true
	each := func(c *v1.Container) {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			r, l := c.Resources.Requests[name], c.Resources.Limits[name]
			requests[name] += r.MilliValue()
			limits[name] += l.MilliValue()
			if l.IsZero() || !r.IsZero() && r.Cmp(l) != 0 {
				guaranteed = false
			}
		}
	}
	for i := range pod.Spec.Containers {
		each(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		each(&pod.Spec.InitContainers[i])
	}
	switch {
	case guaranteed && len(pod.Spec.Containers) > 0:
		return v1.PodQOSGuaranteed
	case requests[v1.ResourceCPU]+requests[v1.ResourceMemory]+limits[v1.ResourceCPU]+limits[v1.ResourceMemory] == 0:
		return v1.PodQOSBestEffort
	}
	return v1.PodQOSBurstable
}

// Resources translates requests and limits into cgroup settings.
// memoryCapacity is the node's, in bytes.
func Resources(pod *v1.Pod, c *v1.Container, memoryCapacity int64) *runtimeapi.LinuxContainerResources {
	r := amounts(c.Resources.Requests, c.Resources.Limits)
	r.OomScoreAdj = oomScore(pod, c, memoryCapacity)
	return r
}

// PodResources are the settings of the cgroup around all containers of pod.
// Memory and CPU time are bounded only where every container has a bound.
func PodResources(pod *v1.Pod) *runtimeapi.LinuxContainerResources {
	opts := resourcehelper.PodResourcesOptions{}
	limits := resourcehelper.PodLimits(pod, opts)
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
				if q := list[i].Resources.Limits[name]; q.IsZero() {
					delete(limits, name)
				}
			}
		}
	}
	return amounts(resourcehelper.PodRequests(pod, opts), limits)
}

func amounts(requests, limits v1.ResourceList) *runtimeapi.LinuxContainerResources {
	cpuRequest, hasRequest := requests[v1.ResourceCPU]
	cpuLimit := limits[v1.ResourceCPU]
	shares := cpuRequest.MilliValue()
	if !hasRequest && !cpuLimit.IsZero() {
		shares = cpuLimit.MilliValue()
	}
	r := &runtimeapi.LinuxContainerResources{
		CpuShares:          min(max(shares*1024/1000, minShares), maxShares),
		MemoryLimitInBytes: limits.Memory().Value(),
	}
	if milli := cpuLimit.MilliValue(); milli > 0 {
		r.CpuPeriod = quotaPeriodUsec
		r.CpuQuota = max(milli*quotaPeriodUsec/1000, minQuotaUsec)
	}
	return r
}

func oomScore(pod *v1.Pod, c *v1.Container, memoryCapacity int64) int64 {
	switch {
	case pod.Spec.Priority != nil && *pod.Spec.Priority >= 2000000000: // system critical
		return guaranteedOOMScore
	case QOS(pod) == v1.PodQOSGuaranteed:
		return guaranteedOOMScore
	case QOS(pod) == v1.PodQOSBestEffort || memoryCapacity <= 0:
		return bestEffortOOMScore
	}
	score := 1000 - 1000*c.Resources.Requests.Memory().Value()/memoryCapacity
	return min(max(score, 1000+guaranteedOOMScore), bestEffortOOMScore-1)
}
