package driver

import (
	"context"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/sandbox/csi-driver/internal/fsimage"
	"holdfast.dev/sandbox/csi-driver/internal/loopdev"
	"holdfast.dev/sandbox/csi-driver/internal/pool"
)

func (c *controller) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if err := c.checkCreate(r); err != nil {
		return nil, err
	}
	unlock, err := c.locks.lock(ctx, volumeNameKey(r.GetName()))
	if err != nil {
		return nil, err
	}
	defer unlock()
	fromSnapshot := r.GetVolumeContentSource().GetSnapshot().GetSnapshotId()
	fromVolume := r.GetVolumeContentSource().GetVolume().GetVolumeId()
	if existing := c.Pool.VolumeByName(r.GetName()); existing != nil {
		if existing.FromSnapshot != fromSnapshot || existing.FromVolume != fromVolume {
			return nil, status.Errorf(codes.AlreadyExists, "volume %q exists and was made from another source", r.GetName())
		}
		if !fits(existing.SizeBytes, r.GetCapacityRange()) {
			return nil, status.Errorf(codes.AlreadyExists, "volume %q exists with %d bytes", r.GetName(), existing.SizeBytes)
		}
		return c.volumeResponse(*existing), nil
	}
	minimum, unlockSource, err := c.lockSource(ctx, fromSnapshot, fromVolume)
	if err != nil {
		return nil, err
	}
	defer unlockSource()
	for _, capability := range r.GetVolumeCapabilities() {
		if capability.GetMount().GetFsType() == fsimage.XFS && minimum == 0 {
			minimum = fsimage.MinXFSBytes
		}
	}
	size, err := chooseSize(r.GetCapacityRange(), minimum, fromSnapshot != "" || fromVolume != "")
	if err != nil {
		return nil, err
	}
	volume, err := c.Pool.CreateVolume(pool.Volume{
		Name: r.GetName(), SizeBytes: size, FromSnapshot: fromSnapshot, FromVolume: fromVolume,
	})
	if err != nil {
		return nil, err
	}
	return c.volumeResponse(volume), nil
}

func (c *controller) checkCreate(r *csi.CreateVolumeRequest) error {
	if r.GetName() == "" {
		return invalid("name is missing")
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return invalid("volume capabilities are missing")
	}
	for _, capability := range r.GetVolumeCapabilities() {
		if err := checkCapability(capability); err != nil {
			return err
		}
	}
	if len(r.GetMutableParameters()) > 0 {
		return invalid("there are no mutable parameters")
	}
	if source := r.GetVolumeContentSource(); source != nil &&
		source.GetSnapshot().GetSnapshotId() == "" && source.GetVolume().GetVolumeId() == "" {
		return invalid("volume content source names neither snapshot nor volume")
	}
	requisite := r.GetAccessibilityRequirements().GetRequisite()
	here := func(topology *csi.Topology) bool { return topology.GetSegments()[TopologyKey] == c.NodeID }
	if c.Topology && len(requisite) > 0 && !slices.ContainsFunc(requisite, here) {
		return status.Errorf(codes.ResourceExhausted, "volumes of node %q are not reachable from where this one is wanted", c.NodeID)
	}
	return checkParameters(r.GetParameters())
}

// lockSource keeps a volume's source from going away, and returns its size.
func (c *controller) lockSource(ctx context.Context, fromSnapshot, fromVolume string) (int64, func(), error) {
	switch {
	case fromSnapshot != "":
		unlock, err := c.locks.lock(ctx, snapshotKey(fromSnapshot))
		if err != nil {
			return 0, nil, err
		}
		snapshot, err := c.Pool.Snapshot(fromSnapshot)
		if err == nil {
			err = c.requireReady(snapshot)
		}
		if err != nil {
			unlock()
			return 0, nil, err
		}
		return snapshot.SizeBytes, unlock, nil
	case fromVolume != "":
		unlock, err := c.locks.lock(ctx, volumeKey(fromVolume))
		if err != nil {
			return 0, nil, err
		}
		volume, err := c.Pool.Volume(fromVolume)
		if err != nil {
			unlock()
			return 0, nil, err
		}
		return volume.SizeBytes, unlock, nil
	}
	return 0, func() {}, nil
}

// fits tells whether an existing size satisfies a request.
func fits(size int64, wanted *csi.CapacityRange) bool {
	return size >= wanted.GetRequiredBytes() && (wanted.GetLimitBytes() == 0 || size <= wanted.GetLimitBytes())
}

// chooseSize picks a volume's size: whole steps, at least the minimum. A source is never cut off.
func chooseSize(wanted *csi.CapacityRange, minimum int64, hasSource bool) (int64, error) {
	required, limit := wanted.GetRequiredBytes(), wanted.GetLimitBytes()
	if required < 0 || limit < 0 {
		return 0, invalid("capacity range is negative")
	}
	if limit > 0 && limit < required {
		return 0, status.Errorf(codes.OutOfRange, "limit %d is below the required %d bytes", limit, required)
	}
	if hasSource && required > 0 && required < minimum {
		return 0, status.Errorf(codes.OutOfRange, "the source has %d bytes, %d are asked for", minimum, required)
	}
	size := max(required, minimum, sizeStep)
	if required == 0 && !hasSource {
		size = max(defaultSize, minimum)
		if limit > 0 {
			size = max(min(size, limit/sizeStep*sizeStep), minimum, sizeStep)
		}
	}
	if size > maxSize {
		return 0, status.Errorf(codes.OutOfRange, "%d bytes are more than the largest volume's %d", size, maxSize)
	}
	size = (size + sizeStep - 1) / sizeStep * sizeStep
	if limit > 0 && size > limit {
		return 0, status.Errorf(codes.OutOfRange, "the smallest fitting volume has %d bytes, the limit is %d", size, limit)
	}
	return size, nil
}

func (c *controller) volumeResponse(volume pool.Volume) *csi.CreateVolumeResponse {
	return &csi.CreateVolumeResponse{Volume: c.volumeInfo(volume)}
}

func (c *controller) volumeInfo(volume pool.Volume) *csi.Volume {
	info := &csi.Volume{VolumeId: volume.ID, CapacityBytes: volume.SizeBytes}
	switch {
	case volume.FromSnapshot != "":
		info.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: volume.FromSnapshot},
		}}
	case volume.FromVolume != "":
		info.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volume.FromVolume},
		}}
	}
	if c.Topology {
		info.AccessibleTopology = []*csi.Topology{{Segments: map[string]string{TopologyKey: c.NodeID}}}
	}
	return info
}

func (c *controller) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("volume id is missing")
	}
	unlock, err := c.locks.lock(ctx, volumeKey(r.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := c.Pool.Volume(r.GetVolumeId()); err != nil {
		return &csi.DeleteVolumeResponse{}, nil // deleted before
	}
	device, err := loopdev.Find(c.Pool.VolumeImage(r.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	if device != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q is in use on %s", r.GetVolumeId(), device.Path)
	}
	return &csi.DeleteVolumeResponse{}, c.Pool.DeleteVolume(r.GetVolumeId())
}

func (c *controller) ListVolumes(_ context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	volumes, next, err := page(c.Pool.Volumes(), r.GetStartingToken(), r.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	response := &csi.ListVolumesResponse{NextToken: next}
	for _, volume := range volumes {
		response.Entries = append(response.Entries, &csi.ListVolumesResponse_Entry{Volume: c.volumeInfo(volume)})
	}
	return response, nil
}

func (c *controller) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("volume id is missing")
	}
	if r.GetCapacityRange() == nil {
		return nil, invalid("capacity range is missing")
	}
	unlock, err := c.locks.lock(ctx, volumeKey(r.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := c.Pool.Volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	// A volume never shrinks: one that is large enough already is left as it is.
	size, err := chooseSize(&csi.CapacityRange{
		RequiredBytes: max(r.GetCapacityRange().GetRequiredBytes(), volume.SizeBytes),
		LimitBytes:    r.GetCapacityRange().GetLimitBytes(),
	}, 0, false)
	if err != nil {
		return nil, err
	}
	if size > volume.SizeBytes {
		if volume, err = c.Pool.ExpandVolume(volume.ID, size); err != nil {
			return nil, err
		}
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: volume.SizeBytes, NodeExpansionRequired: true}, nil
}
