{{/* The name of the operator's objects: the release's, with the chart's where it does not say it already. */}}
{{- define "tapeline.name" -}}
{{- if contains "tapeline" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-tapeline" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "tapeline.selector" -}}
app.kubernetes.io/name: tapeline-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tapeline.labels" -}}
{{ include "tapeline.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* An image: {{ include "tapeline.image" (list . "worker") }} */}}
{{- define "tapeline.image" -}}
{{- $root := index . 0 }}{{ $image := index $root.Values.images (index . 1) -}}
{{ $image.repository }}:{{ $image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{/* The watched namespaces, separated by commas; empty for the whole cluster. */}}
{{- define "tapeline.namespaces" -}}
{{- if not .Values.watch.cluster }}{{ join "," (.Values.watch.namespaces | default (list .Release.Namespace)) }}{{ end }}
{{- end }}

{{/* What the operator may do where pipelines are. Each rule says who needs it; used equals granted. */}}
{{- define "tapeline.rules" -}}
# The pipelines themselves: controller.rs watches them, reconcile/invalid.rs reads one that it does not understand. It never changes a specification.
- apiGroups: [tapeline.dev]
  resources: [tradingpipelines]
  verbs: [list, watch]
# What came of them: reconcile/status/writer.rs.
- apiGroups: [tapeline.dev]
  resources: [tradingpipelines/status]
  verbs: [patch]
# Owner references with blockOwnerDeletion, where the admission plugin OwnerReferencesPermissionEnforcement asks for it: reconcile/build/mod.rs.
- apiGroups: [tapeline.dev]
  resources: [tradingpipelines/finalizers]
  verbs: [update]
# One Deployment for each query, producer and dashboard. list, watch: controller.rs, those with our label. get: reconcile/dereference.rs, whether a name is taken.
# create, patch: server-side apply; delete: suspended or removed ones (reconcile/apply.rs).
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# How many pods: reconcile/apply.rs.
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
# One CronJob for each producer with a schedule. list, watch: controller.rs, those with our label. get: reconcile/dereference.rs, whether a name is taken.
# create, patch: server-side apply; delete: those whose producer is removed or has no schedule any more (reconcile/scheduled.rs).
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch, create, patch, delete]
# The runs of those, to say how the last one ended: controller.rs, reconcile/runs.rs. Kubernetes makes and removes them.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch]
# Settings of workers, producers and dashboards, immutable, never listed; one is looked at before it is deleted (reconcile/apply.rs). Reference rows, files to send and bars to replay by name (reconcile/dereference.rs).
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, delete]
# User names and passwords of Cassandra, MySQL, MongoDB and dashboards, by the name that a pipeline gives, never listed: reconcile/dereference.rs.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# Addresses of workers and producers, and why they do not start: controller.rs, observer/mod.rs.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# By which people reach a dashboard, and as whom it asks the API server. get: reconcile/dereference/companions.rs, whether a name is taken, and whether there is
# anything to do; create, patch: server-side apply; delete: removed ones (reconcile/apply/companions.rs).
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, create, patch, delete]
# What that account may do: the same files.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [get, create, patch, delete]
# It may bind the one role that this chart makes for dashboards (below), and no other that grants more than it has itself.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [{{ if .Values.watch.cluster }}clusterroles{{ else }}roles{{ end }}]
  resourceNames: [{{ include "tapeline.dashboardRole" . }}]
  verbs: [bind]
# Events of pipelines: reconcile/status/events.rs. patch: kube's recorder counts a repeated one.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* The Role (with watch.cluster: ClusterRole) that the operator binds the service accounts of dashboards to. */}}
{{- define "tapeline.dashboardRole" -}}
{{ include "tapeline.name" . }}-{{ if .Values.watch.cluster }}{{ .Release.Namespace }}-{{ end }}dashboard
{{- end }}

{{/* What a dashboard may do in its pipeline's namespace. It reads, and changes nothing. */}}
{{- define "tapeline.dashboardRules" -}}
# The pipeline that it shows, by a watch: dashboard/src/follow.rs. A Role cannot name it, since all dashboards of a namespace have this one.
- apiGroups: [tapeline.dev]
  resources: [tradingpipelines]
  verbs: [list, watch]
# Addresses of workers and producers, whose /status it reads, and how often they were started again: the same file.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# What happened to the pipeline. The operator writes Events in the group events.k8s.io; they are the same objects: the same file.
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch]
{{- end }}
