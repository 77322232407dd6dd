{{- define "understudy.name" -}}
{{- /* As a part of another chart, the names of the release are shared with it. */ -}}
{{- if .Values.nameOverride }}{{ .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- else if .Chart.IsRoot }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ .Release.Name | trunc 20 | trimSuffix "-" }}-{{ .Chart.Name | trunc 19 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{/* What selectors go by: two copies within one release must not take each other's pods. */}}
{{- define "understudy.instance" -}}
{{ if .Chart.IsRoot }}{{ .Release.Name }}{{ else }}{{ include "understudy.name" . }}{{ end }}
{{- end -}}

{{/* Labels of everything. Argument: dict "root" . "part" "runtime" */}}
{{- define "understudy.labels" -}}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{ include "understudy.selector" . }}
{{- end -}}

{{- define "understudy.selector" -}}
app.kubernetes.io/name: understudy
app.kubernetes.io/instance: {{ include "understudy.instance" .root }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{/* The same on one line. */}}
{{- define "understudy.selectorFlow" -}}
{{ include "understudy.selector" . | trim | replace "\n" ", " }}
{{- end -}}

{{/* Argument: dict "root" . "image" .Values.image */}}
{{- define "understudy.image" -}}
{{- $registry := .root.Values.global.imageRegistry -}}
{{- if $registry }}{{ trimSuffix "/" $registry }}/{{ end -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}

{{- define "understudy.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "understudy.sandboxNamespace" -}}
{{- ternary (default .Release.Namespace .Values.sandbox.namespace) .Release.Namespace .Values.sandbox.enabled -}}
{{- end -}}

{{/* Pods of a part as one peer of a NetworkPolicy, also from the namespace of the sandboxes. Argument: dict "root" . "part" "executor" */}}
{{- define "understudy.peer" -}}
{{- $isApart := and .root.Values.sandbox.namespace (ne .root.Values.sandbox.namespace .root.Release.Namespace) -}}
{{- $namespace := ternary (include "understudy.sandboxNamespace" .root) .root.Release.Namespace (eq .part "sandbox") -}}
podSelector: { matchLabels: { {{ include "understudy.selectorFlow" . }} } }
{{- if $isApart }}
namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: {{ $namespace }} } }
{{- end }}
{{- end -}}

{{/* Executors and those of further pools, as parts: executor,executor-<pool>,... */}}
{{- define "understudy.executorParts" -}}
executor{{ range keys .Values.executor.pools | sortAlpha }},executor-{{ . }}{{ end }}
{{- end -}}

{{- define "understudy.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "understudy.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- define "understudy.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* No two of a kind on one node or in one zone, as far as there are others. */}}
{{- define "understudy.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "understudy.selector" $ | nindent 8 }}
  {{- end }}
{{- end -}}

{{- define "understudy.natsUrl" -}}
{{- default (printf "nats://%s-nats.%s.svc:4222" (include "understudy.name" .) .Release.Namespace) .Values.nats.url -}}
{{- end -}}
{{- define "understudy.redisUrl" -}}
{{- default (printf "redis://%s-redis.%s.svc:6379" (include "understudy.name" .) .Release.Namespace) .Values.redis.url -}}
{{- end -}}
{{/* The ports of an address of several hosts, as a list for a NetworkPolicy. Argument: dict "url" "fallback" */}}
{{- define "understudy.portsOf" -}}
{{- $ports := list -}}
{{- range splitList "," (regexReplaceAll "[#?].*$" .url "") -}}
{{- $host := regexReplaceAll "/.*$" (regexReplaceAll "^ *[a-z+-]+://" . "") "" -}}
{{- $ports = append $ports (default $.fallback (trimPrefix ":" (regexFind ":[0-9]+$" $host))) -}}
{{- end -}}
{{- range $ports | uniq }}
- port: {{ . }}
{{- end }}
{{- end -}}

{{- define "understudy.natsSecret" -}}
{{- default (printf "%s-credentials" (include "understudy.name" .)) .Values.nats.existingSecret -}}
{{- end -}}
{{- define "understudy.redisSecret" -}}
{{- default (printf "%s-credentials" (include "understudy.name" .)) .Values.redis.existingSecret -}}
{{- end -}}

{{/* Stream names, as services/core/wire/subjects.ts spells them. */}}
{{- define "understudy.streamPrefix" -}}
{{- if ne .Values.prefix "understudy" }}{{ upper .Values.prefix }}_{{ end -}}
{{- end -}}

{{- define "understudy.tenants" -}}
{{- $names := keys .Values.tenants -}}
{{- if .Values.example.enabled }}{{ $names = append $names "acme" }}{{ end -}}
{{- $names | uniq | sortAlpha | join "," -}}
{{- end -}}

{{/* Environment that every service has. Argument: dict "root" . "user" "runtime" */}}
{{- define "understudy.environment" -}}
- name: UNDERSTUDY_INSTANCE
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- { name: UNDERSTUDY_HTTP_PORT, value: "8080" }
- { name: UNDERSTUDY_LOG_LEVEL, value: {{ .root.Values.logLevel | quote }} }
- { name: UNDERSTUDY_PREFIX, value: {{ .root.Values.prefix | quote }} }
- { name: UNDERSTUDY_SHARDS, value: {{ .root.Values.shards | quote }} }
- { name: UNDERSTUDY_REPLICAS, value: {{ .root.Values.nats.streamReplicas | quote }} }
- { name: UNDERSTUDY_NATS_URL, value: {{ include "understudy.natsUrl" .root | quote }} }
- { name: UNDERSTUDY_NATS_USER, value: {{ .user | quote }} }
- name: UNDERSTUDY_NATS_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ include "understudy.natsSecret" .root }}, key: nats-{{ .user }} } }
{{- if .root.Values.trustedCa.secret }}
- { name: NODE_EXTRA_CA_CERTS, value: /etc/understudy/ca/{{ .root.Values.trustedCa.key }} }
{{- end }}
{{- end -}}

{{/* What a container mounts and its pod brings, each as a list; with the trusted CA, if there is one. Argument: dict "root" . "mounts" or "volumes" (list) */}}
{{- define "understudy.mounts" -}}
{{- $all := .mounts | default list -}}
{{- if .root.Values.trustedCa.secret }}{{ $all = append $all (dict "name" "trusted-ca" "mountPath" "/etc/understudy/ca" "readOnly" true) }}{{ end -}}
{{- if $all -}}
volumeMounts: {{- toYaml $all | nindent 2 }}
{{- end -}}
{{- end -}}
{{- define "understudy.volumes" -}}
{{- $all := .volumes | default list -}}
{{- if .root.Values.trustedCa.secret }}{{ $all = append $all (dict "name" "trusted-ca" "secret" (dict "secretName" .root.Values.trustedCa.secret)) }}{{ end -}}
{{- if $all -}}
volumes: {{- toYaml $all | nindent 2 }}
{{- end -}}
{{- end -}}
{{- define "understudy.redisEnvironment" -}}
- { name: UNDERSTUDY_REDIS_URL, value: {{ include "understudy.redisUrl" .root | quote }} }
- { name: UNDERSTUDY_REDIS_USER, value: {{ .user | quote }} }
- name: UNDERSTUDY_REDIS_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ include "understudy.redisSecret" .root }}, key: redis-{{ .user }} } }
{{- if contains "-sentinel://" .root.Values.redis.url }}
- name: UNDERSTUDY_REDIS_SENTINEL_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ include "understudy.redisSecret" .root }}, key: redis-sentinel, optional: true } }
{{- end }}
{{- end -}}
{{- define "understudy.specsEnvironment" -}}
- { name: UNDERSTUDY_SPECS, value: /etc/understudy/specs }
- { name: UNDERSTUDY_NAMESPACE, value: {{ .Release.Namespace | quote }} }
{{- end -}}

{{/* livez says that the event loop turns; readyz that it may be given work. Starting may take two minutes, being stuck one: what it held is taken over after
     `runtime.leaseMs` anyway, and on a node that is too busy an early restart makes it busier. */}}
{{- define "understudy.probes" -}}
startupProbe:
  httpGet: { path: /livez, port: http }
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet: { path: /livez, port: http }
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 12
readinessProbe:
  httpGet: { path: /readyz, port: http }
  periodSeconds: 2
  timeoutSeconds: 2
{{- end -}}

{{/* Who may do what on the bundled NATS. Argument: dict "root" . "passwords" (by user). A change of it restarts NATS, so its passwords are left out of what is compared. */}}
{{- define "understudy.natsUsers" -}}
{{- $p := .root.Values.prefix }}
{{- $s := include "understudy.streamPrefix" .root }}
{{- $passwords := .passwords }}
{{- $tenants := splitList "," (include "understudy.tenants" .root) | compact -}}
{{- $executors := splitList "," (include "understudy.executorParts" .root) -}}
authorization {
  users = [
    {
      user: runtime, password: {{ index $passwords "nats-runtime" | quote }}
      permissions {
        publish: [
          "{{ $p }}.task.>", "{{ $p }}.tell.>", "{{ $p }}.mail.>", "{{ $p }}.effect.>", "{{ $p }}.event.>", "{{ $p }}.dead.>", "{{ $p }}.archive.>", "{{ $p }}.bundle.>", "{{ $p }}.cancel.>", "{{ $p }}.cluster.>"
          "{{ $p }}.start.*" # cancellation records
          "{{ $p }}.clock.*", "{{ $p }}.check.*", "{{ $p }}.server.*"
          "_INBOX_operator.>", "_INBOX_console.>"{{ range $executors }}, "_INBOX_{{ . }}.>"{{ end }} # answers; allow_responses loses its memory when the server restarts
          {{- range $tenants }}
          "_INBOX_tenant-{{ . }}.>"
          {{- end }}
          {{- range list "TASKS" "MAIL" "EFFECTS" "STARTS" "EVENTS" "DEAD" "ARCHIVE" "BUNDLES" "WORKSPACES" }}
          "$JS.API.STREAM.INFO.{{ $s }}{{ . }}", "$JS.API.STREAM.CREATE.{{ $s }}{{ . }}", "$JS.API.STREAM.UPDATE.{{ $s }}{{ . }}"
          {{- end }}
          "$JS.API.STREAM.INFO.{{ $s }}CREDENTIALS", "$JS.API.STREAM.CREATE.{{ $s }}CREDENTIALS"
          {{- range list "MAIL" "EVENTS" "DEAD" "ARCHIVE" }}
          "$JS.API.STREAM.MSG.GET.{{ $s }}{{ . }}", "$JS.API.CONSUMER.CREATE.{{ $s }}{{ . }}", "$JS.API.CONSUMER.DELETE.{{ $s }}{{ . }}.>", "$JS.FC.{{ $s }}{{ . }}.>"
          {{- end }}
          "$JS.API.STREAM.MSG.GET.{{ $s }}BUNDLES", "$JS.API.STREAM.MSG.GET.{{ $s }}STARTS"
          "$JS.API.STREAM.MSG.DELETE.{{ $s }}DEAD", "$JS.API.STREAM.PURGE.{{ $s }}MAIL"
          {{- range list "DURABLE.CREATE" "DELETE" "INFO" "MSG.NEXT" }}
          "$JS.API.CONSUMER.{{ . }}.{{ $s }}TASKS.*"
          {{- end }}
          "$JS.API.CONSUMER.NAMES.{{ $s }}TASKS", "$JS.ACK.{{ $s }}TASKS.>"
          "$JS.API.CONSUMER.NAMES.{{ $s }}EFFECTS", "$JS.API.CONSUMER.INFO.{{ $s }}EFFECTS.>"
        ]
        subscribe: ["_INBOX_runtime.>", "{{ $p }}.control.>", "{{ $p }}.cluster.>", "{{ $p }}.ask.*.task", "{{ $p }}.holds.cancelled", "{{ $p }}.wanted.*", "{{ $p }}.checked.*", "{{ $p }}.served.*", "$SRV.>"]
      }
    }
    {
      user: gateway, password: {{ index $passwords "nats-gateway" | quote }}
      permissions {
        publish: [
          "{{ $p }}.mail.>", "{{ $p }}.stream.>", "{{ $p }}.effect.models.*", "{{ $p }}.clock.*", "{{ $p }}.checked.*"
          "$JS.API.STREAM.INFO.{{ $s }}EFFECTS", "$JS.API.STREAM.CREATE.{{ $s }}EFFECTS", "$JS.API.STREAM.MSG.GET.{{ $s }}BUNDLES", "$JS.API.STREAM.MSG.GET.{{ $s }}STARTS"
          "$JS.API.CONSUMER.DURABLE.CREATE.{{ $s }}EFFECTS.pool-models", "$JS.API.CONSUMER.MSG.NEXT.{{ $s }}EFFECTS.pool-models", "$JS.ACK.{{ $s }}EFFECTS.pool-models.>"
        ]
        subscribe: ["_INBOX_gateway.>", "{{ $p }}.cancel.models", "{{ $p }}.check.models"]
      }
    }
    {{- range $part := $executors }}
    {{- $pool := ternary "tools" (trimPrefix "executor-" $part) (eq $part "executor") }}
    {
      user: {{ $part }}, password: {{ index $passwords (printf "nats-%s" $part) | quote }}
      permissions {
        publish: [
          "{{ $p }}.mail.>", "{{ $p }}.start.*", "{{ $p }}.clock.*", "{{ $p }}.holds.*", "{{ $p }}.wanted.*", "{{ $p }}.effect.{{ $pool }}.*", "{{ $p }}.workspace.>", "{{ $p }}.checked.*", "{{ $p }}.served.*", "{{ $p }}.credential.{{ $pool }}.*", "_INBOX_{{ $part }}.>"
          "$JS.API.STREAM.MSG.GET.{{ $s }}CREDENTIALS" # sealed: each pool has its own key
          "$JS.API.STREAM.INFO.{{ $s }}EFFECTS", "$JS.API.STREAM.CREATE.{{ $s }}EFFECTS", "$JS.API.STREAM.MSG.GET.{{ $s }}BUNDLES", "$JS.API.STREAM.MSG.GET.{{ $s }}STARTS"
          "$JS.API.STREAM.MSG.GET.{{ $s }}WORKSPACES", "$JS.API.STREAM.PURGE.{{ $s }}WORKSPACES"
          "$JS.API.CONSUMER.DURABLE.CREATE.{{ $s }}EFFECTS.pool-{{ $pool }}", "$JS.API.CONSUMER.MSG.NEXT.{{ $s }}EFFECTS.pool-{{ $pool }}", "$JS.ACK.{{ $s }}EFFECTS.pool-{{ $pool }}.>"
        ]
        subscribe: ["_INBOX_{{ $part }}.>", "{{ $p }}.cancel.{{ $pool }}", "{{ $p }}.holds.*", "{{ $p }}.check.{{ $pool }}", "{{ $p }}.server.{{ $pool }}"]
      }
    }
    {{- end }}
    {
      # Asks the control API, and reads what happened.
      user: console, password: {{ index $passwords "nats-console" | quote }}
      permissions {
        publish: [
          {{- range list "list" "count" "inspect" "pause" "resume" "halt" "approve" "reject" "approvals" "dead" "requeue" "verify" "doctor" }}
          "{{ $p }}.control.{{ . }}"
          {{- end }}
          "$JS.API.STREAM.INFO.{{ $s }}EVENTS", "$JS.API.CONSUMER.CREATE.{{ $s }}EVENTS", "$JS.API.CONSUMER.DELETE.{{ $s }}EVENTS.>", "$JS.FC.{{ $s }}EVENTS.>"
        ]
        subscribe: ["_INBOX_console.>"]
      }
    }
    {
      # People and their CLI: everything through the control API, tasks, and reading what happened.
      user: operator, password: {{ index $passwords "nats-operator" | quote }}
      permissions {
        publish: [
          "{{ $p }}.control.>", "{{ $p }}.task.>", "{{ $p }}.tell.>", "$SRV.>"
          {{- range list "TASKS" "MAIL" "EFFECTS" "STARTS" "EVENTS" "DEAD" "ARCHIVE" "BUNDLES" "WORKSPACES" }}
          "$JS.API.STREAM.INFO.{{ $s }}{{ . }}", "$JS.API.STREAM.MSG.GET.{{ $s }}{{ . }}"
          {{- end }}
          {{- range list "MAIL" "STARTS" "EVENTS" "DEAD" "ARCHIVE" }}
          "$JS.API.CONSUMER.CREATE.{{ $s }}{{ . }}", "$JS.API.CONSUMER.DELETE.{{ $s }}{{ . }}.>", "$JS.FC.{{ $s }}{{ . }}.>"
          {{- end }}
        ]
        subscribe: ["_INBOX_operator.>", "{{ $p }}.event.>", "{{ $p }}.stream.>"]
      }
    }
    {{- range $tenants }}
    {
      # Publishes for its own tenant, hears of its own tenant.
      user: tenant-{{ . }}, password: {{ index $passwords (printf "nats-tenant-%s" .) | quote }}
      permissions {
        publish: ["{{ $p }}.task.{{ . }}.*", "{{ $p }}.tell.{{ . }}.*", "{{ $p }}.ask.{{ . }}.task"]
        subscribe: ["_INBOX_tenant-{{ . }}.>", "{{ $p }}.event.{{ . }}.>", "{{ $p }}.stream.{{ . }}.>"]
      }
    }
    {{- end }}
  ]
}
{{- end -}}

{{- /*
A server runs once on its volume: a pod that is deleted by force may still write for a moment beside
its heir on the same node. This container takes a lock on the volume before the server starts, and
ends after it. Kubernetes knows containers that do so from 1.29 on.
Arguments: root.
*/}}
{{- define "understudy.volumeLock" -}}
{{- if semverCompare ">=1.29.0-0" .root.Capabilities.KubeVersion.Version }}
initContainers:
  - name: volume-lock
    image: {{ include "understudy.image" (dict "root" .root "image" .root.Values.image) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    restartPolicy: Always
    command:
      - /bin/sh
      - -c
      - |
        trap 'exit 0' TERM
        rm -f /locked/yes
        exec 9>>/data/.volume-lock
        until flock -w 1 9; do echo 'another server still has this volume'; done
        : > /locked/yes
        sleep infinity & wait
    securityContext: {{- include "understudy.containerSecurity" .root | nindent 6 }}
    startupProbe: { exec: { command: [/usr/bin/test, -e, /locked/yes] }, periodSeconds: 1, failureThreshold: 600 }
    resources: { requests: { cpu: 5m, memory: 8Mi }, limits: { memory: 32Mi } }
    volumeMounts:
      - { name: data, mountPath: /data }
      - { name: locked, mountPath: /locked }
{{- end }}
{{- end -}}
